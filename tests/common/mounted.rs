//! A Secret of type `kubernetes.io/tls` as the kubelet mounts it.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// A directory as the kubelet keeps it: the files are links through `..data`, which is exchanged by a rename.
pub struct Mounted(PathBuf);

/// Chain and key, PEM.
pub struct Served {
    pub chain: String,
    pub key: String,
}

impl Mounted {
    pub fn new(directory: PathBuf) -> Self {
        fs::create_dir(&directory).unwrap();
        for file in ["tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(file), directory.join(file)).unwrap();
        }
        Self(directory)
    }

    pub fn write(&self, served: &Served) {
        let old = fs::read_link(self.0.join("..data")).ok();
        let fresh = tempfile::Builder::new().prefix("..2026_").tempdir_in(&self.0).unwrap().keep();
        fs::write(fresh.join("tls.crt"), &served.chain).unwrap();
        fs::write(fresh.join("tls.key"), &served.key).unwrap();
        symlink(fresh.file_name().unwrap(), self.0.join("..data_tmp")).unwrap();
        fs::rename(self.0.join("..data_tmp"), self.0.join("..data")).unwrap();
        if let Some(old) = old {
            fs::remove_dir_all(self.0.join(old)).unwrap();
        }
    }

    /// What tells the webhook of them.
    pub fn flags(&self) -> Vec<String> {
        let path = |file: &str| self.0.join(file).display().to_string();
        vec![format!("--tls-cert-file={}", path("tls.crt")), format!("--tls-key-file={}", path("tls.key"))]
    }
}
