//! S3 and the stores that speak its protocol.

#[cfg(feature = "aws-credentials")]
mod credentials;
#[cfg(feature = "aws-credentials")]
mod credentials_http;
mod open;
#[cfg(feature = "aws-credentials")]
mod profile;
mod profile_refusal;
mod sign;
mod versions;
#[cfg(not(feature = "aws-credentials"))]
mod without_profiles;
mod write_headers;

pub(crate) use open::{ca_bundle, endpoint, open};
