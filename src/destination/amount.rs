//! What an amount is: money of a currency, or so much of an asset that has no price here.
//!
//! Accounting, analytics and CRM services assume a currency of their own where none is given, so
//! they get either an ISO 4217 code that is surely right, or no figure at all.

use bigdecimal::{BigDecimal, RoundingMode};

use crate::money::Amount;

/// A currency of ISO 4217.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Currency {
    code: &'static str,
    minor_units: u8,
}

/// The codes of ISO 4217, by the number of decimals of their minor unit.
///
/// Left out are funds, metals and units of account, which are not paid with, and the codes that are
/// tickers of tokens on public chains too, because an event names the asset alone: `MNT` (Mongolia's
/// currency, and Mantle's token at three thousand times the worth), `RON` (Ronin), `SCR` (Scroll),
/// `BOB`, `ERN`, `GEL`, `SOS` and `TOP`.
const CODES: &[(u8, &str)] = &[
    (0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"),
    (
        2,
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BRL BSD BTN BWP BYN BZD \
         CAD CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ETB EUR FJD FKP GBP GHS GIP \
         GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD \
         LSL MAD MDL MGA MKD MMK MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN \
         PGK PHP PKR PLN QAR RSD RUB SAR SBD SDG SEK SGD SHP SLE SRD SSP STN SVC SYP \
         SZL THB TJS TMT TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG",
    ),
    (3, "BHD IQD JOD KWD LYD OMR TND"),
];

/// Stablecoins and the currency that one of them stands for.
///
/// Each is redeemed one for one by its issuer from reserves in that currency (or, `DAI` and
/// `USDS`, through a module that swaps them one for one into such a coin), or is that coin bridged.
/// Coins that keep their price by trading or by an algorithm are not here: they have lost it before.
const STABLECOINS: &[(&str, &str)] = &[
    ("USDC", "USD"),
    ("USDC.e", "USD"),
    ("USDbC", "USD"),
    ("USDT", "USD"),
    ("USDT.e", "USD"),
    ("USDT0", "USD"),
    ("USD\u{20ae}", "USD"),
    ("USD\u{20ae}0", "USD"),
    ("PYUSD", "USD"),
    ("USDP", "USD"),
    ("USDG", "USD"),
    ("FDUSD", "USD"),
    ("GUSD", "USD"),
    ("RLUSD", "USD"),
    ("DAI", "USD"),
    ("USDS", "USD"),
    ("EURC", "EUR"),
    ("EURS", "EUR"),
    ("EURCV", "EUR"),
    ("EURe", "EUR"),
    ("XSGD", "SGD"),
    ("JPYC", "JPY"),
    ("QCAD", "CAD"),
    ("AUDD", "AUD"),
    ("MXNB", "MXN"),
    ("BRLA", "BRL"),
];

/// The decimals that accounting services keep of a document's total.
const BOOK_DECIMALS: u8 = 2;

impl Currency {
    /// The currency that something is paid in: an ISO 4217 code, or a stablecoin that stands for
    /// one, in whatever case. `None` for every other asset: it has no price here.
    #[must_use]
    pub fn of(asset: &str) -> Option<Self> {
        let pegged = STABLECOINS.iter().find(|(coin, _)| coin.eq_ignore_ascii_case(asset));
        Self::of_code(pegged.map_or(asset, |(_, code)| code))
    }

    fn of_code(code: &str) -> Option<Self> {
        CODES.iter().find_map(|&(minor_units, codes)| {
            let code = codes.split(' ').find(|known| known.eq_ignore_ascii_case(code))?;
            Some(Self { code, minor_units })
        })
    }

    /// The ISO 4217 code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        self.code
    }

    /// The smallest step of an amount in the books, as a number of decimals: the minor unit, but
    /// at most two decimals, because the services keep no more.
    #[must_use]
    pub fn book_decimals(self) -> u8 {
        self.minor_units.min(BOOK_DECIMALS)
    }

    /// The amount as it is booked: rounded half to even at the smallest step.
    #[must_use]
    pub fn booked(self, amount: &Amount) -> BigDecimal {
        let places = i64::from(self.book_decimals());
        amount.decimal().with_scale_round(places, RoundingMode::HalfEven)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(asset: &str) -> Option<&'static str> {
        Currency::of(asset).map(Currency::code)
    }

    #[test]
    fn stablecoins_count_as_their_currency() {
        for asset in
            ["USDC", "usdc", "USDC.e", "USDbC", "USDBC", "USDT", "PYUSD", "DAI", "USD", "usd"]
        {
            assert_eq!(code(asset), Some("USD"), "{asset}");
        }
        for asset in ["EURC", "eurc", "EURS", "EUR", "eur"] {
            assert_eq!(code(asset), Some("EUR"), "{asset}");
        }
    }

    #[test]
    fn an_asset_has_no_price() {
        for asset in [
            "ETH",
            "WETH",
            "BTC",
            "cbBTC",
            "SOL",
            "POL",
            "XRP",
            "TON",
            "BNB",
            "OP",
            "ARB",
            "MNT",
            "RON",
            "scr",
            "BOB",
            "ERN",
            "GEL",
            "SOS",
            "TOP",
            "XAU",
            "XXX",
            "XTS",
            "XDR",
            "USDe",
            "UST",
            "FRAX",
            "",
            " ",
            "US",
            "USDCE",
            "USD ",
            "\u{20ac}",
            "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
        ] {
            assert_eq!(code(asset), None, "{asset}");
        }
    }

    #[test]
    fn codes_are_three_letters_once() {
        let codes: Vec<&str> = CODES.iter().flat_map(|(_, codes)| codes.split(' ')).collect();
        assert!(codes.iter().all(|code| code.len() == 3), "{codes:?}");
        let different: std::collections::BTreeSet<&&str> = codes.iter().collect();
        assert_eq!(different.len(), codes.len());
        for (coin, code) in STABLECOINS {
            assert!(codes.contains(code), "{coin}");
        }
    }

    #[test]
    fn an_amount_is_booked_in_its_smallest_step() {
        let booked = |asset: &str, amount: &str| {
            let amount = Amount::parse(amount).unwrap();
            Currency::of(asset).unwrap().booked(&amount).to_string()
        };
        assert_eq!(booked("USDC", "1234.567800"), "1234.57");
        assert_eq!(booked("JPY", "1000000.4"), "1000000");
        assert_eq!(booked("KWD", "1.2345"), "1.23");
        assert_eq!(booked("EURC", "0.005"), "0");
    }
}
