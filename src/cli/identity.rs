//! Flags that say who the operator is towards Google.

use std::{fmt, path::PathBuf};

use super::WrongUsage;
use crate::token::operator::Sources;

/// Where the operator's own Google identity comes from: the first of these that is there, else the metadata server.
#[derive(clap::Args)]
#[command(next_help_heading = "Google identity")]
pub(super) struct IdentityArgs {
    /// Credential file of the operator's identity: a service account key, workload identity federation (external_account), or an
    /// impersonation of an account by one of these. It is read again for every access token
    #[arg(long, env = "GOOGLE_APPLICATION_CREDENTIALS", hide_env_values = true, value_name = "FILE")]
    google_application_credentials: Option<PathBuf>,
    /// Directory of gcloud's configuration, whose application_default_credentials.json serves where it exists [default:
    /// ~/.config/gcloud]
    #[arg(long, env = "CLOUDSDK_CONFIG", hide_env_values = true, value_name = "DIRECTORY")]
    cloudsdk_config: Option<PathBuf>,
}

impl IdentityArgs {
    /// The order of Google's own libraries. `allow_user`: whether a person's credentials may serve.
    pub(super) fn sources(self, allow_user: bool) -> Result<Sources, WrongUsage> {
        let sources = self.sources_at_home(allow_user, std::env::var_os("HOME").map(PathBuf::from));
        sources.check().map_err(|error| WrongUsage(error.to_string()))?;
        Ok(sources)
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

/// What is given may be a key, by mistake.
impl fmt::Debug for IdentityArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityArgs([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    #[test]
    fn a_key_in_the_place_of_its_path_is_refused_and_not_shown() {
        let pem = "-----BEGIN PRIVATE KEY-----\nplanted\n-----END PRIVATE KEY-----\n";
        let base64 = "planted+".repeat(300);
        let long = format!("/{}", "planted/".repeat(600));
        for content in [r#"{"private_key":"planted"}"#, pem, &base64, &long] {
            for is_directory in [false, true] {
                let given = Some(PathBuf::from(content));
                let args = IdentityArgs {
                    google_application_credentials: given.clone().filter(|_| !is_directory),
                    cloudsdk_config: given.filter(|_| is_directory),
                };
                assert_eq!(format!("{args:?}"), "IdentityArgs([redacted])");
                let error = args.sources(false).unwrap_err();
                assert!(!format!("{error} {error:?}").contains("planted"), "{error:?}");
                assert!(
                    error.to_string().ends_with("mount the Secret as a file, and give its path"),
                    "{error}"
                );
            }
        }
        let args = IdentityArgs {
            google_application_credentials: Some(PathBuf::from(format!("/{}", "directory/".repeat(100)))),
            cloudsdk_config: None,
        };
        assert!(args.sources(false).is_ok());
    }

    #[test]
    fn the_help_shows_no_value_of_the_environment() {
        let command = IdentityArgs::augment_args(clap::Command::new("x"));
        let hides =
            |id: &str| command.get_arguments().any(|a| a.get_id() == id && a.is_hide_env_values_set());
        assert!(hides("google_application_credentials"));
        assert!(hides("cloudsdk_config"));
    }

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
