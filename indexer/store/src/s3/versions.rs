//! S3: `ListObjectVersions`, which `object_store` does not have.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use object_store::{
    Error, Result,
    aws::AmazonS3,
    client::{HttpClient, HttpRequest, HttpRequestBody},
    path::Path,
    signer::{SignedUrlOptions, Signer as _},
};
use quick_xml::{Reader, escape::unescape, events::Event};
use reqwest::Method;

use crate::{
    object_versions::{ListVersions, ObjectVersion, VersionPage},
    time::StoreSecond,
};

/// How long the request for a page is valid. It is sent at once, but dated by the clock of this machine: S3 takes other requests
/// whose clock differs by as much.
const PAGE_VALIDITY: Duration = Duration::from_mins(15);
/// What S3 calls a version that was written while the bucket kept none.
const NO_VERSION: &str = "null";

/// The versions of one bucket.
pub(super) struct S3Versions {
    pub(super) store: Arc<AmazonS3>,
    pub(super) client: HttpClient,
    /// Whether the requester pays for the bucket's requests.
    pub(super) pays: bool,
}

#[async_trait]
impl ListVersions for S3Versions {
    async fn list_versions(&self, path: &Path, after: Option<&str>) -> Result<Option<VersionPage>> {
        let mut query = vec![("versions".to_owned(), String::new()), ("prefix".to_owned(), path.to_string())];
        if self.pays {
            query.push(("x-amz-request-payer".to_owned(), "requester".to_owned()));
        }
        if let Some(id) = after {
            query
                .extend([("key-marker".to_owned(), path.to_string()), ("version-id-marker".to_owned(), id.to_owned())]);
        }
        let options = SignedUrlOptions::default().with_query(query);
        let url = self.store.signed_url_opts(Method::GET, &Path::default(), PAGE_VALIDITY, &options).await?;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Generic { store: "S3", source };
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = url.as_str().parse().map_err(|_| failed("the address of the bucket is no URI".into()))?;
        let answer = self.client.execute(request).await.map_err(|error| failed(Box::new(error)))?;
        let status = answer.status();
        let body = answer.into_body().bytes().await.map_err(|error| failed(Box::new(error)))?;
        let body = String::from_utf8_lossy(&body);
        if matches!(status.as_u16(), 405 | 501) {
            return Ok(None);
        }
        if !status.is_success() {
            // In the words of the transport's own errors, which say what may be repeated.
            return Err(failed(format!("Server returned non-2xx status code: {status}: {body}").into()));
        }
        if is_list_of_objects(&body) {
            return Ok(None);
        }
        let page = read_page(&body, path.as_ref());
        page.map(Some).ok_or_else(|| failed("the answer is no list of versions".into()))
    }
}

/// Whether it is the answer of a server that does not know the parameter.
fn is_list_of_objects(answer: &str) -> bool {
    answer.trim_end().ends_with("</ListBucketResult>")
}

/// The versions of `key` on a page, the newest first; `None` if it is no such page.
fn read_page(page: &str, key: &str) -> Option<VersionPage> {
    let mut reader = Reader::from_str(page);
    let (mut read, mut inside, mut complete) = (VersionPage::default(), false, false);
    let (mut next_key, mut next_id) = (String::new(), String::new());
    let (mut name, mut id, mut time, mut element) = (String::new(), String::new(), String::new(), String::new());
    let mut truncated = false;
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                element = String::from_utf8_lossy(start.name().as_ref()).into_owned();
                inside |= element == "Version";
                if element == "Version" {
                    (name, id, time) = Default::default();
                }
            }
            Event::Text(text) => add_text(
                &String::from_utf8_lossy(&text),
                match (element.as_str(), inside) {
                    ("Key", true) => &mut name,
                    ("VersionId", true) => &mut id,
                    ("LastModified", true) => &mut time,
                    ("NextKeyMarker", false) => &mut next_key,
                    ("NextVersionIdMarker", false) => &mut next_id,
                    ("IsTruncated", false) => {
                        truncated = text.as_ref() == b"true";
                        continue;
                    }
                    _ => continue,
                },
            ),
            Event::GeneralRef(entity) if inside && element == "Key" => {
                add_text(&format!("&{};", String::from_utf8_lossy(&entity)), &mut name);
            }
            Event::GeneralRef(entity) if !inside && element == "NextKeyMarker" => {
                add_text(&format!("&{};", String::from_utf8_lossy(&entity)), &mut next_key);
            }
            Event::End(end) => {
                if end.name().as_ref() == b"Version" {
                    inside = false;
                    if name == key {
                        let time = StoreSecond::floor(time.parse().ok()?);
                        let id = (id != NO_VERSION && !id.is_empty()).then(|| id.clone());
                        read.versions.push(ObjectVersion { id, time });
                    }
                }
                complete |= end.name().as_ref() == b"ListVersionsResult";
                element.clear();
            }
            Event::Eof => break,
            _ => {}
        }
    }
    // Names that begin with this one are listed behind it.
    read.next = (truncated && next_key == key).then_some(next_id);
    complete.then_some(read)
}

fn add_text(text: &str, to: &mut String) {
    to.push_str(&unescape(text).unwrap_or(text.into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of AWS's documentation, with a name that XML escapes.
    const PAGE: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
        <ListVersionsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>mtp-versioning-fresh</Name>\
        <Prefix>a&amp;b</Prefix><KeyMarker></KeyMarker><VersionIdMarker/><MaxKeys>3</MaxKeys>\
        <IsTruncated>true</IsTruncated><NextKeyMarker>a&amp;b</NextKeyMarker><NextVersionIdMarker>d-d309</NextVersionIdMarker>\
        <Version><Key>a&amp;b</Key><VersionId>3/L4k</VersionId><IsLatest>true</IsLatest>\
        <LastModified>2009-10-12T17:50:30.000Z</LastModified><ETag>&quot;fba9&quot;</ETag><Size>434234</Size>\
        <Owner><ID>75aa</ID><DisplayName>mtd@amazon.com</DisplayName></Owner></Version>\
        <DeleteMarker><Key>a&amp;b</Key><VersionId>gone</VersionId><LastModified>2009-10-12T17:50:30.000Z</LastModified></DeleteMarker>\
        <Version><Key>a&amp;b</Key><VersionId>null</VersionId><IsLatest>false</IsLatest>\
        <LastModified>2009-10-10T17:50:30.900Z</LastModified></Version>\
        <Version><Key>a&amp;b.old</Key><VersionId>x</VersionId><LastModified>2009-10-10T17:50:30.900Z</LastModified></Version>\
        </ListVersionsResult>";

    #[test]
    fn a_page_of_versions_is_read() {
        let second = |text: &str| StoreSecond::floor(text.parse().unwrap());
        let read = read_page(PAGE, "a&b").unwrap();
        let expected = [
            ObjectVersion { id: Some("3/L4k".to_owned()), time: second("2009-10-12T17:50:30Z") },
            ObjectVersion { id: None, time: second("2009-10-10T17:50:30Z") },
        ];
        assert_eq!(read.versions, expected);
        assert_eq!(read.next.as_deref(), Some("d-d309"));
        assert!(!is_list_of_objects(PAGE));
        assert!(is_list_of_objects("<ListBucketResult><Name>b</Name></ListBucketResult>\n"));
        for cut in [PAGE.len() - 5, 100, 0] {
            assert_eq!(read_page(&PAGE[..cut], "a&b"), None);
        }
    }
}
