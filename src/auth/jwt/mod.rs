//! JSON Web Tokens: their issuers, their keys, and the identities that tokens make.
//!
//! A token is read in this order, and the first thing that is wrong is told: its shape and its header (`token.rs`), its
//! issuer (`authenticator.rs`), the keys that may have signed it (`keys.rs`), its signature and its times (`issuer.rs`,
//! by the crate `jsonwebtoken`), its claims (`claims.rs`). **Invariant:** nothing in a token is used before its
//! signature is right, but to choose the issuer and the key that the signature is checked with.

mod algorithms;
mod authenticator;
mod changes;
mod claims;
mod crypto;
mod digest;
mod fault;
mod fetch;
mod issuer;
mod jwk;
mod keys;
mod material;
mod pem;
mod remote;
mod shown;
#[cfg(test)]
mod tests;
mod token;

pub use authenticator::Jwt;
pub(crate) use changes::IssuerChange;
pub use claims::BareTokens;
pub(crate) use issuer::Issuer;
pub use issuer::JwtIssuer;
pub(crate) use token::TOKEN_BYTES_MAX;
pub(super) use token::has_jwt_form;
