//! Certificates and kubeconfigs of one cluster.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde_json::json;

/// One authority that signs everybody: servers and clients.
pub(crate) struct CertificateAuthority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// Makes the authority (`ca.crt`) and the keys of service accounts' tokens (`sa.key`, `sa.pub`).
    pub(crate) fn create(folder: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "tidemark-test-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        fs::write(folder.join("ca.crt"), params.self_signed(&key)?.pem())?;
        let tokens = KeyPair::generate()?;
        fs::write(folder.join("sa.key"), tokens.serialize_pem())?;
        fs::write(folder.join("sa.pub"), tokens.public_key_pem())?;
        Ok(Self { folder, issuer: Issuer::new(params, key) })
    }

    /// The path of a file, such as `ca.crt`.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Writes `NAME.crt` and `NAME.key` for a user of a group, who may also serve under some names and addresses.
    pub(crate) fn issue(
        &self,
        name: &str,
        who: CertificateSubject<'_>,
        names: &[&str],
        addresses: &[IpAddr],
    ) -> anyhow::Result<()> {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        params.distinguished_name.push(DnType::CommonName, who.user);
        params.distinguished_name.push(DnType::OrganizationName, who.group);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        fs::write(self.path(&format!("{name}.crt")), params.signed_by(&key, &self.issuer)?.pem())?;
        Ok(fs::write(self.path(&format!("{name}.key")), key.serialize_pem())?)
    }

    /// Issues a client's certificate and writes `NAME.kubeconfig` beside it, which is given back.
    pub(crate) fn kubeconfig(&self, name: &str, who: CertificateSubject<'_>, server: &str) -> anyhow::Result<PathBuf> {
        self.issue(name, who, &[], &[])?;
        self.kubeconfig_for(name, server)
    }

    /// Writes `NAME.kubeconfig` for a certificate that exists.
    pub(crate) fn kubeconfig_for(&self, name: &str, server: &str) -> anyhow::Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": self.path("ca.crt")}}],
            "users": [{"name": name, "user": {
                "client-certificate": self.path(&format!("{name}.crt")),
                "client-key": self.path(&format!("{name}.key")),
            }}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        });
        let path = self.path(&format!("{name}.kubeconfig"));
        write_whole(&path, &serde_json::to_vec_pretty(&config)?)?;
        Ok(path)
    }
}

/// Whom a certificate names.
#[derive(Clone, Copy)]
pub(crate) struct CertificateSubject<'a> {
    pub(crate) user: &'a str,
    pub(crate) group: &'a str,
}

impl CertificateSubject<'static> {
    /// May do everything.
    pub(crate) const ADMIN: Self = Self { user: "admin", group: "system:masters" };
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(new, path)
}
