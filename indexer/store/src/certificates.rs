//! The authorities that sign a server's certificate, in place of those that the system trusts.

use url::Url;

use crate::{configuration::ConfiguredValue, errors::StoreError};

/// Certificates in PEM, and the file that they are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrustedCertificates {
    pub(crate) file: ConfiguredValue,
    pub(crate) pem: Vec<u8>,
}

impl TrustedCertificates {
    /// Reads `file` for the store `url`. A file that is absent or holds no certificate is named with the remedy.
    pub(crate) fn read(url: &Url, file: &ConfiguredValue) -> Result<Self, StoreError> {
        let missing = |why: String| StoreError::Missing {
            url: url.to_string(),
            file: file.value.clone(),
            why: format!("{why} ({})", file.source),
            remedy: "put the authority's certificates there in PEM (key \"ca.crt\" of the ConfigMap)".to_owned(),
        };
        let pem = std::fs::read(&file.value).map_err(|error| missing(error.to_string()))?;
        let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| missing(error.to_string()))?;
        if found.is_empty() {
            return Err(missing("it holds no certificate".to_owned()));
        }
        Ok(Self { file: file.clone(), pem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let named =
            ConfiguredValue { value: file.path().display().to_string(), source: "variable AWS_CA_BUNDLE".to_owned() };
        let error = TrustedCertificates::read(&"s3://b".parse().unwrap(), &named).unwrap_err().to_string();
        for part in [&named.value, "ca.crt", "variable AWS_CA_BUNDLE"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
