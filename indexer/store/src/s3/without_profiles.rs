//! What stands for profiles and the credentials beyond the environment's keys where AWS's crates are left out (the feature
//! `aws-credentials`): nothing is found, and who asks for it is refused.

use object_store::aws::AwsCredentialProvider;
use url::Url;

use super::profile_refusal::ProfileRefusal;
use crate::{
    configuration::ConfiguredValue,
    environment::StoreEnvironment,
    errors::StoreError,
    provider_client::{TransportSettings, unusable},
};

const REMEDY: &str =
    "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or build tidemark with its default features";

/// The profile of a program that reads none.
#[derive(Debug)]
pub(super) struct NoAwsProfile;

#[expect(clippy::unused_self, reason = "the methods are those of the profile that is read from files")]
impl NoAwsProfile {
    /// Refuses a profile that a variable selects.
    pub(super) fn load(environment: &StoreEnvironment) -> Result<Self, ProfileRefusal> {
        match environment.configured(&["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]) {
            None => Ok(Self),
            Some(ConfiguredValue { value, source }) => Err(ProfileRefusal {
                why: format!(
                    "profile \"{value}\" ({source}) cannot be read: this program is built without AWS's profiles"
                ),
                remedy: REMEDY,
            }),
        }
    }

    pub(super) fn get(&self, _: &str) -> Option<ConfiguredValue> {
        None
    }

    pub(super) fn endpoint(&self) -> Option<ConfiguredValue> {
        None
    }
}

/// Refuses: the environment has no keys, and nothing else is read.
pub(super) fn credential_chain(
    url: &Url,
    _: &StoreEnvironment,
    _: &TransportSettings,
    _: &reqwest::Client,
    _: &ConfiguredValue,
    _: NoAwsProfile,
) -> Result<(String, AwsCredentialProvider), StoreError> {
    let why = "the environment has no AWS credentials, and this program is built to find no others".to_owned();
    Err(unusable(url, why, REMEDY))
}
