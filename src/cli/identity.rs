//! Flags that say who the operator is towards Google.

use std::path::PathBuf;

use crate::token::operator::Sources;

/// Where the operator's own Google identity comes from: the first of these that is there, else the metadata server.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Google identity")]
pub(super) struct IdentityArgs {
    /// Credential file of the operator's identity: a service account key, workload identity federation (external_account), or an
    /// impersonation of an account by one of these. It is read again for every access token
    #[arg(long, env = "GOOGLE_APPLICATION_CREDENTIALS", value_name = "FILE")]
    google_application_credentials: Option<PathBuf>,
    /// Directory of gcloud's configuration, whose application_default_credentials.json serves where it exists [default:
    /// ~/.config/gcloud]
    #[arg(long, env = "CLOUDSDK_CONFIG", value_name = "DIRECTORY")]
    cloudsdk_config: Option<PathBuf>,
}

impl IdentityArgs {
    /// The order of Google's own libraries. `allow_user`: whether a person's credentials may serve.
    pub(super) fn sources(self, allow_user: bool) -> Sources {
        self.sources_at_home(allow_user, std::env::var_os("HOME").map(PathBuf::from))
    }

    fn sources_at_home(self, allow_user: bool, home: Option<PathBuf>) -> Sources {
        let given = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
        let gcloud =
            given(self.cloudsdk_config).or_else(|| given(home).map(|home| home.join(".config/gcloud")));
        Sources {
            credentials_file: given(self.google_application_credentials),
            gcloud_file: gcloud.map(|directory| directory.join("application_default_credentials.json")),
            allow_user,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(file: &str, config: Option<&str>, home: Option<&str>) -> Sources {
        let args = IdentityArgs {
            google_application_credentials: Some(PathBuf::from(file)),
            cloudsdk_config: config.map(PathBuf::from),
        };
        args.sources_at_home(true, home.map(PathBuf::from))
    }

    #[test]
    fn gclouds_file_is_where_gcloud_has_it() {
        let path = |sources: &Sources| sources.gcloud_file.as_ref().map(|path| path.display().to_string());
        let at_home = sources("/key.json", None, Some("/home/me"));
        assert_eq!(at_home.credentials_file, Some(PathBuf::from("/key.json")));
        assert!(at_home.allow_user);
        assert_eq!(
            path(&at_home).as_deref(),
            Some("/home/me/.config/gcloud/application_default_credentials.json")
        );
        let elsewhere = sources("", Some("/etc/gcloud"), Some("/home/me"));
        assert_eq!(elsewhere.credentials_file, None);
        assert_eq!(path(&elsewhere).as_deref(), Some("/etc/gcloud/application_default_credentials.json"));
        assert_eq!(path(&sources("", Some(""), Some(""))), None);
        assert_eq!(path(&sources("", None, None)), None);
    }
}
