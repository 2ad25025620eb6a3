//! Keys and certificates of one run: mutual TLS everywhere, as in a user's cluster. Two authorities, the API's and etcd's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Usage, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// The folder with `NAME.crt` and `NAME.key`.
#[derive(Clone, Debug)]
pub struct Pki(PathBuf);

impl Pki {
    /// Makes everything. `hosts` are the addresses of members and servers.
    pub fn make(folder: &Path, hosts: &[String]) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let pki = Self(folder.to_owned());
        let api = pki.authority("ca", "kubernetes")?;
        let etcd = pki.authority("etcd-ca", "etcd-ca")?;
        let both = [Usage::ServerAuth, Usage::ClientAuth];
        pki.certificate("etcd", "etcd", None, hosts, &both, &etcd)?;
        pki.certificate(
            "etcd-client",
            "kube-apiserver-etcd-client",
            None,
            &[],
            &[Usage::ClientAuth],
            &etcd,
        )?;
        pki.certificate("apiserver", "kube-apiserver", None, hosts, &[Usage::ServerAuth], &api)?;
        let masters = Some("system:masters");
        pki.certificate("admin", "kubernetes-admin", masters, &[], &[Usage::ClientAuth], &api)?;
        let account = KeyPair::generate()?;
        pki.put("sa.key", &account.serialize_pem())?;
        pki.put("sa.pub", &account.public_key_pem())?;
        Ok(pki)
    }

    /// Where a file is.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        std::fs::read(self.file(name)).with_context(|| name.to_owned())
    }

    fn put(&self, name: &str, text: &str) -> Result<()> {
        std::fs::write(self.file(name), text).with_context(|| name.to_owned())
    }

    fn authority(&self, name: &str, common_name: &str) -> Result<Issuer<'static, KeyPair>> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate()?;
        self.put(&format!("{name}.crt"), &parameters.self_signed(&key)?.pem())?;
        Ok(Issuer::new(parameters, key))
    }

    fn certificate(
        &self,
        name: &str,
        common_name: &str,
        organization: Option<&str>,
        hosts: &[String],
        usages: &[Usage],
        issuer: &Issuer<'static, KeyPair>,
    ) -> Result<()> {
        let mut parameters = CertificateParams::new(hosts.to_vec())?;
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        if let Some(organization) = organization {
            parameters
                .distinguished_name
                .push(DnType::OrganizationName, organization);
        }
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = usages.to_vec();
        let key = KeyPair::generate()?;
        self.put(&format!("{name}.crt"), &parameters.signed_by(&key, issuer)?.pem())?;
        self.put(&format!("{name}.key"), &key.serialize_pem())
    }
}
