//! The headers of every write that a signed URL must carry too: how the object is encrypted, and who pays.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use md5::{Digest as _, Md5};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

use crate::environment::is_true;

/// Why the headers cannot be made, and what to do.
pub(super) type HeaderRefusal = (&'static str, &'static str);

/// The headers that `builder`'s settings ask for, names in lower case.
pub(super) fn write_headers(builder: &AmazonS3Builder) -> Result<BTreeMap<String, String>, HeaderRefusal> {
    let mut headers = BTreeMap::new();
    let mut set = |name: &str, value: String| headers.insert(format!("x-amz-{name}"), value);
    // The type of these keys has no public name.
    let setting = |name: &str| builder.get_config_value(&name.parse::<AmazonS3ConfigKey>().ok()?);
    let (kms_key, bucket_key) = (setting("aws_sse_kms_key_id"), setting("aws_sse_bucket_key_enabled"));
    let customer_key = setting("aws_sse_customer_key_base64");
    match setting("aws_server_side_encryption").as_deref() {
        Some("sse-c") => {
            let Some(key) = customer_key else {
                return Err(("SSE-C has no key", "set AWS_SSE_CUSTOMER_KEY_BASE64"));
            };
            let bytes = STANDARD.decode(&key);
            let bytes = bytes.map_err(|_| ("the key of SSE-C is not base64", "correct AWS_SSE_CUSTOMER_KEY_BASE64"))?;
            set("server-side-encryption-customer-algorithm", "AES256".to_owned());
            set("server-side-encryption-customer-key", key);
            set("server-side-encryption-customer-key-md5", STANDARD.encode(Md5::digest(bytes)));
        }
        Some(kind) => {
            set("server-side-encryption", kind.to_owned());
            kms_key.and_then(|key| set("server-side-encryption-aws-kms-key-id", key));
            bucket_key
                .and_then(|enabled| set("server-side-encryption-bucket-key-enabled", is_true(&enabled).to_string()));
        }
        None if kms_key.is_some() || customer_key.is_some() => {
            let why = "a key for encryption is set without the kind of encryption";
            return Err((why, "set AWS_SERVER_SIDE_ENCRYPTION to aws:kms, aws:kms:dsse or sse-c"));
        }
        None => {}
    }
    let payer = builder.get_config_value(&AmazonS3ConfigKey::RequestPayer);
    if payer.is_some_and(|payer| payer.eq_ignore_ascii_case("requester") || is_true(&payer)) {
        set("request-payer", "requester".to_owned());
    }
    Ok(headers)
}
