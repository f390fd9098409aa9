//! Checks the settings of the server's own requests to other servers.

use std::fs;

use super::{settings::Settings, values::FilePath};
use crate::{error::ConfigError, outbound::Authorities};

/// Reads the authorities that the server trusts in addition to those of the system.
pub(super) fn authorities(settings: &Settings) -> Result<Authorities, ConfigError> {
    let Some(FilePath(path)) = &settings.outbound_ca else { return Ok(Authorities::default()) };
    let read = fs::read(path).map_err(|error| error.to_string()).and_then(|pem| Authorities::from_pem(&pem));
    read.map_err(|error| ConfigError::of("outbound_ca", format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_named() {
        let read = |path: &str| {
            let settings = Settings { outbound_ca: Some(FilePath(path.into())), ..Settings::default() };
            authorities(&settings).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(read("Cargo.toml"), Err("outbound_ca: Cargo.toml: there is no certificate in PEM form".into()));
        assert!(read("no-such-file").unwrap_err().starts_with("outbound_ca: no-such-file: No such file"));
        assert!(authorities(&Settings::default()).is_ok());
    }
}
