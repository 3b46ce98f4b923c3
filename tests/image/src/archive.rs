//! An image with its configuration, as an OCI archive.

use std::{collections::BTreeMap, io, io::Write};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::ImageLayer;

/// An image of one layer.
#[derive(Debug, Default)]
pub struct ImageArchive {
    /// Its full name with registry and tag, such as `tidemark.dev/tidemark:dev`.
    pub reference: String,
    /// Its files.
    pub layer: ImageLayer,
    /// The program and its first arguments.
    pub entry_point: Vec<String>,
    /// User and group by number, such as `65532:65532`; empty is root.
    pub user: String,
    /// Variables, such as `PATH=/usr/bin`.
    pub environment: Vec<String>,
    /// Labels, such as `org.opencontainers.image.title`.
    pub labels: BTreeMap<String, String>,
}

impl ImageArchive {
    /// Writes the archive: what `ctr images import`, `kind load image-archive`, `podman load` and `docker load` read.
    pub fn write(&self, output: impl Write) -> io::Result<()> {
        let layer = self.layer.tar()?;
        let config = self.config(&layer).to_string().into_bytes();
        let manifest = manifest(&config, &layer).to_string().into_bytes();
        let mut archive = tar::Builder::new(output);
        let mut blobs = BTreeMap::new();
        for blob in [config, manifest.clone(), layer] {
            blobs.insert(format!("blobs/sha256/{}", hex::encode(Sha256::digest(&blob))), blob);
        }
        for (path, blob) in &blobs {
            add(&mut archive, path, blob)?;
        }
        add(&mut archive, "index.json", self.index(&manifest).to_string().as_bytes())?;
        add(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.finish()
    }

    fn config(&self, layer: &[u8]) -> Value {
        json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": self.entry_point,
                "User": self.user,
                "Env": self.environment,
                "Labels": self.labels,
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        })
    }

    /// The one manifest under the image's name; tools differ in which annotation they read.
    fn index(&self, manifest: &[u8]) -> Value {
        let tag = self.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        let mut described = described("application/vnd.oci.image.manifest.v1+json", manifest);
        described["platform"] = json!({"architecture": architecture(), "os": "linux"});
        described["annotations"] = json!({
            "io.containerd.image.name": self.reference,
            "org.opencontainers.image.ref.name": tag,
        });
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [described],
        })
    }
}

fn manifest(config: &[u8], layer: &[u8]) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("application/vnd.oci.image.config.v1+json", config),
        "layers": [described("application/vnd.oci.image.layer.v1.tar", layer)],
    })
}

fn described(kind: &str, blob: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(blob), "size": blob.len()})
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(blob)))
}

/// This machine's architecture in Go's words: an image is made of its programs.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn add(archive: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, path, bytes)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, io::Read};

    use super::*;

    fn image() -> ImageArchive {
        ImageArchive {
            reference: "registry.example/some/app:v1".to_owned(),
            layer: ImageLayer::default().file("/usr/bin/app", 0o755, *b"program").folder("/tmp", 0o1777),
            entry_point: vec!["/usr/bin/app".to_owned()],
            user: "65532:65532".to_owned(),
            ..ImageArchive::default()
        }
    }

    fn written(image: &ImageArchive) -> Vec<u8> {
        let mut bytes = Vec::new();
        image.write(&mut bytes).expect("memory takes it");
        bytes
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().expect("an archive");
        let read = entries.map(|entry| {
            let mut entry = entry.expect("an entry");
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            (entry.path().expect("its path").display().to_string(), bytes)
        });
        read.collect()
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        assert_eq!(written(&image()), written(&image()));
        assert_ne!(written(&image()), written(&ImageArchive { user: "0:0".to_owned(), ..image() }));
    }

    #[test]
    fn every_digest_is_found_and_true() {
        let files = files(&written(&image()));
        let parsed = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
        let blob = |described: &Value| {
            let name = described["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
            let bytes = files[&format!("blobs/sha256/{name}")].clone();
            assert_eq!(hex::encode(Sha256::digest(&bytes)), name);
            assert_eq!(described["size"], bytes.len());
            bytes
        };
        let manifest = parsed(&blob(&parsed(&files["index.json"])["manifests"][0]));
        let config = parsed(&blob(&manifest["config"]));
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let names: BTreeSet<String> = self::files(&layer).into_keys().collect();
        assert_eq!(names, ["tmp", "usr", "usr/bin", "usr/bin/app"].map(str::to_owned).into());
    }

    #[test]
    fn a_folder_is_read_with_its_modes_and_links() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("lib")).expect("made");
        std::fs::write(folder.path().join("lib/a"), "a").expect("written");
        std::os::unix::fs::symlink("a", folder.path().join("lib/b")).expect("linked");
        let bytes = ImageLayer::from_folder(folder.path()).expect("it is read").tar().expect("memory takes it");
        let mut archive = tar::Archive::new(bytes.as_slice());
        let links: Vec<_> = archive
            .entries()
            .expect("an archive")
            .filter_map(|entry| {
                entry.expect("an entry").link_name().expect("a name").map(|to| to.display().to_string())
            })
            .collect();
        assert_eq!(links, ["a"]);
    }
}
