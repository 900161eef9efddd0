//! Where people look at a transaction: the block explorer of its network.

/// Networks by their names, CAIP-2 ids included, and where their transactions are shown.
const EXPLORERS: &[(&[&str], &str)] = &[
    (&["base", "base-mainnet", "eip155:8453"], "https://basescan.org/tx/"),
    (&["base-sepolia", "eip155:84532"], "https://sepolia.basescan.org/tx/"),
    (&["ethereum", "ethereum-mainnet", "mainnet", "eip155:1"], "https://etherscan.io/tx/"),
    (&["sepolia", "ethereum-sepolia", "eip155:11155111"], "https://sepolia.etherscan.io/tx/"),
    (&["polygon", "polygon-mainnet", "eip155:137"], "https://polygonscan.com/tx/"),
    (&["polygon-amoy", "eip155:80002"], "https://amoy.polygonscan.com/tx/"),
    (&["arbitrum", "arbitrum-one", "eip155:42161"], "https://arbiscan.io/tx/"),
    (&["arbitrum-sepolia", "eip155:421614"], "https://sepolia.arbiscan.io/tx/"),
    (&["optimism", "optimism-mainnet", "eip155:10"], "https://optimistic.etherscan.io/tx/"),
    (&["optimism-sepolia", "eip155:11155420"], "https://sepolia-optimism.etherscan.io/tx/"),
    (&["avalanche", "avalanche-c", "eip155:43114"], "https://snowtrace.io/tx/"),
    (&["bsc", "bnb", "eip155:56"], "https://bscscan.com/tx/"),
    (
        &["solana", "solana-mainnet", "solana:5eykt4usfv8p8njdtrepy1vzqkqzkvdp"],
        "https://explorer.solana.com/tx/",
    ),
];

/// The page of a transaction; `None` for a network that is not known here, and for a text that
/// is no transaction of such a network: it comes from outside and must not choose the page.
#[must_use]
pub fn transaction_url(network: &str, transaction: &str) -> Option<String> {
    let name = network.to_ascii_lowercase();
    let (_, page) = EXPLORERS.iter().find(|(names, _)| names.contains(&&*name))?;
    let is_transaction = if name.starts_with("solana") {
        is_base58_signature(transaction)
    } else {
        is_evm_hash(transaction)
    };
    is_transaction.then(|| format!("{page}{transaction}"))
}

fn is_evm_hash(text: &str) -> bool {
    text.strip_prefix("0x")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// 64 bytes in base 58, whose alphabet lacks what looks alike.
fn is_base58_signature(text: &str) -> bool {
    let is_digit = |b: u8| b.is_ascii_alphanumeric() && !b"0OIl".contains(&b);
    (64..=88).contains(&text.len()) && text.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_has_a_page_where_its_network_is_known() {
        let hash = format!("0x{}", "aB".repeat(32));
        let page = |network: &str| transaction_url(network, &hash);
        assert_eq!(page("base"), Some(format!("https://basescan.org/tx/{hash}")));
        assert_eq!(page("eip155:8453"), page("Base"));
        assert_eq!(page("polygon"), Some(format!("https://polygonscan.com/tx/{hash}")));
        assert_eq!(page("unheard-of"), None);
        assert_eq!(page("solana"), None);
        let signature = "5VERv8NMvzbJMEkV8xnrLkEaWRtSz9CosKDYjCJjBRnbJLgp8uirBgmQpjKhoR4tjF3ZpRzrFmBV6UjKdiSZkQUW";
        let on_solana = format!("https://explorer.solana.com/tx/{signature}");
        assert_eq!(transaction_url("solana", signature), Some(on_solana));
    }

    #[test]
    fn no_other_text_becomes_a_link() {
        for text in ["", "0x", "0x9fe1", "../../evil", "0x<script>", &"a".repeat(1_000)] {
            assert_eq!(transaction_url("base", text), None, "{text}");
            assert_eq!(transaction_url("solana", text), None, "{text}");
        }
    }
}
