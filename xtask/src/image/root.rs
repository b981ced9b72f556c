//! What the root of every image's file system has.

use std::fs;
use std::path::Path;

/// Writes the files by which programs find users and names: our user by its name, hosts from files and DNS.
pub(super) fn furnish(root: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(root.join("etc"))?;
    for (file, contents) in FILES {
        fs::write(root.join("etc").join(file), contents)?;
    }
    Ok(())
}

const FILES: [(&str, &str); 3] = [
    (
        "passwd",
        "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/nonexistent:/sbin/nologin\n",
    ),
    ("group", "root:x:0:\nnonroot:x:65532:\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
];
