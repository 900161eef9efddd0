//! The parts that an instance can play.

use std::str::FromStr;

/// A part that an instance can play.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Serves the REST API.
    Api,
    /// Decides connector commands.
    Registrar,
    /// Delivers events.
    Delivery,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Api, Self::Registrar, Self::Delivery];
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "api" => Ok(Self::Api),
            "registrar" => Ok(Self::Registrar),
            "delivery" => Ok(Self::Delivery),
            _ => Err(format!("{text:?} is no role; the roles are api, registrar, delivery")),
        }
    }
}
