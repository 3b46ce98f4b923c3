//! The S3 operations over the map.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{TryStreamExt, stream};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::{
    S3, S3Request, S3Response, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, CommonPrefix, CompleteMultipartUploadInput,
        CompleteMultipartUploadOutput, CreateBucketInput, CreateBucketOutput, CreateMultipartUploadInput,
        CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput,
        DeletedObject, ETag, ETagCondition, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput,
        HeadObjectInput, HeadObjectOutput, ListObjectVersionsInput, ListObjectVersionsOutput, ListObjectsV2Input,
        ListObjectsV2Output, Object, ObjectVersion, PutObjectInput, PutObjectOutput, StreamingBlob, UploadPartInput,
        UploadPartOutput,
    },
    s3_error,
};

use crate::faults::{InjectedFault, StoreOperation};

use super::{
    S3State,
    objects::{S3Refusal, StoredObject, WriteCondition},
};

/// The operations that Tidemark and `object_store` use; everything else answers 501.
pub(super) struct S3Api(pub(super) Arc<S3State>);

impl S3Api {
    fn find(&self, bucket: &str, key: &str) -> S3Result<Arc<StoredObject>> {
        let found = self.0.buckets().get(bucket, key).map_err(refused)?;
        found.ok_or_else(|| s3_error!(NoSuchKey, "there is no object \"{key}\""))
    }
}

#[async_trait::async_trait]
impl S3 for S3Api {
    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        self.0.buckets().create(&req.input.bucket);
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        if self.0.buckets().exists(&req.input.bucket) {
            Ok(S3Response::new(HeadBucketOutput::default()))
        } else {
            Err(refused(S3Refusal::NoBucket))
        }
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let PutObjectInput { body, bucket, key, metadata, if_match, if_none_match, .. } = req.input;
        let condition = condition(if_match.as_ref(), if_none_match.as_ref())?;
        let body = collect(body).await?;
        let mut buckets = self.0.buckets();
        let metadata = metadata.unwrap_or_default().into_iter().collect();
        let object = StoredObject::new(body, metadata, self.0.clock.now()).map_err(|error| refused(error.into()))?;
        let stored = buckets.put(&bucket, &key, object, &condition).map_err(refused)?;
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(tag(&stored)), ..Default::default() }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput { bucket, key, range, version_id, .. } = req.input;
        let object = match version_id {
            Some(id) => self.0.buckets().get_version(&bucket, &key, &id).ok_or_else(|| s3_error!(NoSuchVersion))?,
            None => self.find(&bucket, &key)?,
        };
        let whole = object.body.len() as u64;
        let part = match range {
            Some(range) => Some(range.check(whole).map_err(|_| s3_error!(InvalidRange))?),
            None => None,
        };
        let content_range = part.as_ref().map(|part| format!("bytes {}-{}/{whole}", part.start, part.end - 1));
        let part = part.map_or(0..object.body.len(), |part| position(part.start)..position(part.end));
        let body = object.body.read(part).map_err(|error| refused(error.into()))?;
        Ok(S3Response::new(GetObjectOutput {
            content_length: i64::try_from(body.len()).ok(),
            body: Some(StreamingBlob::wrap(stream::iter([Ok::<_, std::io::Error>(body)]))),
            content_range,
            accept_ranges: Some("bytes".to_owned()),
            e_tag: Some(tag(&object)),
            last_modified: Some(timestamp(object.time)),
            metadata: Some(object.metadata.clone().into_iter().collect()),
            ..Default::default()
        }))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let object = self.find(&req.input.bucket, &req.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: i64::try_from(object.body.len()).ok(),
            accept_ranges: Some("bytes".to_owned()),
            e_tag: Some(tag(&object)),
            last_modified: Some(timestamp(object.time)),
            metadata: Some(object.metadata.clone().into_iter().collect()),
            ..Default::default()
        }))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let ListObjectsV2Input {
            bucket,
            prefix,
            start_after,
            continuation_token,
            delimiter,
            max_keys,
            encoding_type,
            ..
        } = req.input;
        let limit = max_keys.and_then(|keys| usize::try_from(keys).ok()).unwrap_or(1000).min(1000);
        let after = continuation_token.as_deref().or(start_after.as_deref());
        let prefix_text = prefix.as_deref().unwrap_or_default();
        let page = self.0.buckets().list(&bucket, prefix_text, after, delimiter.as_deref(), limit).map_err(refused)?;
        let encoded = encoding_type.is_some();
        let name = |key: &str| if encoded { encode(key) } else { key.to_owned() };
        let contents: Vec<_> = page.objects.iter().map(|(key, object)| listed(name(key), object)).collect();
        let folders: Vec<_> = page.folders.iter().map(|folder| CommonPrefix { prefix: Some(name(folder)) }).collect();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(bucket),
            prefix: Some(name(prefix_text)),
            max_keys: i32::try_from(limit).ok(),
            key_count: i32::try_from(contents.len() + folders.len()).ok(),
            is_truncated: Some(page.more_after.is_some()),
            next_continuation_token: page.more_after,
            contents: Some(contents),
            common_prefixes: Some(folders),
            encoding_type,
            continuation_token,
            delimiter,
            start_after,
            ..Default::default()
        }))
    }

    async fn list_object_versions(
        &self,
        req: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let ListObjectVersionsInput { bucket, prefix, key_marker, version_id_marker, .. } = req.input;
        let (all, limit) = {
            let buckets = self.0.buckets();
            if !buckets.exists(&bucket) {
                return Err(refused(S3Refusal::NoBucket));
            }
            (buckets.list_versions(&bucket, prefix.as_deref().unwrap_or_default()), buckets.page_limit)
        };
        let is_marker = |(key, id, _): &(String, String, _)| {
            Some(key) == key_marker.as_ref() && Some(id) == version_id_marker.as_ref()
        };
        let from = all.iter().position(is_marker).map_or(0, |marker| marker + 1);
        let page = &all[from..all.len().min(from + limit)];
        let more = (from + page.len() < all.len()).then(|| page.last()).flatten();
        let version = |(key, id, object): &(String, String, Arc<StoredObject>)| ObjectVersion {
            key: Some(key.clone()),
            version_id: Some(id.clone()),
            e_tag: Some(tag(object)),
            last_modified: Some(timestamp(object.time)),
            size: i64::try_from(object.body.len()).ok(),
            ..Default::default()
        };
        Ok(S3Response::new(ListObjectVersionsOutput {
            is_truncated: Some(more.is_some()),
            next_key_marker: more.map(|(key, ..)| key.clone()),
            next_version_id_marker: more.map(|(_, id, _)| id.clone()),
            versions: Some(page.iter().map(version).collect()),
            ..Default::default()
        }))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        if self.0.buckets().remove(&req.input.bucket, &req.input.key) {
            Ok(S3Response::new(DeleteObjectOutput::default()))
        } else {
            Err(refused(S3Refusal::NoBucket))
        }
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let DeleteObjectsInput { bucket, delete, .. } = req.input;
        let mut buckets = self.0.buckets();
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in delete.objects {
            let struck = self.0.faults().strike(StoreOperation::Delete, &format!("{bucket}/{}", object.key));
            if let Some((_, InjectedFault::Locked)) = struck {
                errors.push(locked(object.key));
                continue;
            }
            if !buckets.remove(&bucket, &object.key) {
                return Err(refused(S3Refusal::NoBucket));
            }
            deleted.push(DeletedObject { key: Some(object.key), ..Default::default() });
        }
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), ..Default::default() }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let CreateMultipartUploadInput { bucket, key, metadata, .. } = req.input;
        let metadata = metadata.unwrap_or_default().into_iter().collect();
        let id = self.0.buckets().begin_upload(&bucket, &key, metadata).map_err(refused)?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(bucket),
            key: Some(key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let UploadPartInput { body, upload_id, part_number, .. } = req.input;
        let body = collect(body).await?;
        self.0.buckets().add_part(&upload_id, part_number, body).map_err(refused)?;
        let e_tag = Some(ETag::Strong(format!("{upload_id}-{part_number}")));
        Ok(S3Response::new(UploadPartOutput { e_tag, ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let CompleteMultipartUploadInput { bucket, key, upload_id, multipart_upload, if_match, if_none_match, .. } =
            req.input;
        let condition = condition(if_match.as_ref(), if_none_match.as_ref())?;
        let parts = multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let numbers: Vec<_> = parts.iter().filter_map(|part| part.part_number).collect();
        let now = self.0.clock.now();
        let stored = self.0.buckets().complete_upload(&upload_id, &numbers, &condition, now).map_err(refused)?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(bucket),
            key: Some(key),
            e_tag: Some(tag(&stored)),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.0.buckets().abort_upload(&req.input.upload_id).map_err(refused)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

fn condition(if_match: Option<&ETagCondition>, if_none_match: Option<&ETagCondition>) -> S3Result<WriteCondition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(WriteCondition::None),
        (None, Some(none)) if none.is_any() => Ok(WriteCondition::Absent),
        (Some(tag), None) => match tag.as_etag() {
            Some(tag) => Ok(WriteCondition::Tag(tag.value().to_owned())),
            None => Err(s3_error!(NotImplemented, "If-Match: * is not implemented")),
        },
        _ => Err(s3_error!(NotImplemented, "this combination of conditions is not implemented")),
    }
}

/// The answer for an object that a lock keeps, beside others that are deleted.
fn locked(key: String) -> s3s::dto::Error {
    s3s::dto::Error {
        code: Some("ObjectLocked".to_owned()),
        key: Some(key),
        message: Some("a lock keeps the object".to_owned()),
        ..Default::default()
    }
}

fn refused(refusal: S3Refusal) -> s3s::S3Error {
    match refusal {
        S3Refusal::NoBucket => s3_error!(NoSuchBucket, "the bucket does not exist"),
        S3Refusal::NoUpload => s3_error!(NoSuchUpload, "the upload does not exist"),
        S3Refusal::Precondition => s3_error!(PreconditionFailed, "the condition does not hold"),
        S3Refusal::NoKey => s3_error!(NoSuchKey, "the object does not exist"),
        S3Refusal::BadPart => s3_error!(InvalidPart, "a part is missing"),
        S3Refusal::Disk => s3_error!(InternalError, "the server's disk failed"),
        S3Refusal::PartTooSmall => s3_error!(EntityTooSmall, "a part is smaller than 5 MiB"),
    }
}

async fn collect(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let Some(mut body) = body else { return Ok(Bytes::new()) };
    let mut joined = BytesMut::new();
    while let Some(chunk) = body.try_next().await.map_err(|error| s3_error!(IncompleteBody, "{error}"))? {
        joined.extend_from_slice(&chunk);
    }
    Ok(joined.freeze())
}

fn listed(key: String, object: &StoredObject) -> Object {
    Object {
        key: Some(key),
        e_tag: Some(tag(object)),
        last_modified: Some(timestamp(object.time)),
        size: i64::try_from(object.body.len()).ok(),
        ..Default::default()
    }
}

fn tag(object: &StoredObject) -> ETag {
    ETag::Strong(object.etag.clone())
}

fn timestamp(time: Timestamp) -> s3s::dto::Timestamp {
    std::time::SystemTime::from(time).into()
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// As S3 does for `encoding-type=url`.
fn encode(key: &str) -> String {
    utf8_percent_encode(key, NON_ALPHANUMERIC).to_string()
}
