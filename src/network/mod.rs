//! The network: what the guest may reach, and how it reaches it.

pub mod address;
pub mod audit;
pub mod authority;
pub mod broker;
pub mod check;
pub(crate) mod health;
pub mod hosts;
pub mod intercept;
pub mod live;
pub mod outside;
pub mod ports;
pub mod presets;
pub mod proxy;
pub mod rules;
pub mod secrets;
pub mod settings;
