//! `tidewheel profile`: stored servers.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Ctx;
use super::shapes::PROFILE;
use crate::fail::{Failure, Outcome};
use crate::profile::{Profile, Profiles, read_token};

/// Manage stored connections
///
/// A profile holds address, token and tenant of a server. They stand in `~/.config/tidewheel/config.toml`, which only
/// you can read. `tidewheel login` makes one; `--profile NAME` uses one for a single command.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:\n  tidewheel profile list\n  tidewheel profile use prod")]
pub(crate) struct ProfileCommand {
    #[command(subcommand)]
    verb: ProfileVerb,
}

#[derive(Subcommand)]
enum ProfileVerb {
    List(List),
    Use(Use),
    Set(Set),
    Delete(Delete),
}

/// List stored connections
///
/// Tokens are not shown, only whether there is one.
#[derive(Args)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:\n  tidewheel profile list\n  tidewheel profile list -o json")]
struct List {}

/// Choose the connection that is used by default
///
/// Holds for every later command that names no other with `--profile` or TIDEWHEEL_PROFILE.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel profile use prod\n  tidewheel profile use dev")]
struct Use {
    /// Name of the profile
    name: String,
}

/// Make or change a stored connection
///
/// Takes the address from `--url`, the tenant from `--tenant` and the token from `--token-file`; what is not given
/// stays. Unlike `tidewheel login` it asks the server nothing.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel profile set staging --url https://staging.example
  tidewheel profile set staging --tenant acme --token-file staging.token")]
struct Set {
    /// Name of the profile
    name: String,
}

/// Delete a stored connection
///
/// Takes address and token out of the file. The token itself stays valid: revoke it with `tidewheel token revoke`.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel profile delete staging\n  tidewheel profile delete staging --yes")]
struct Delete {
    /// Name of the profile
    name: String,
}

impl ProfileCommand {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        let mut profiles = Profiles::load()?;
        match self.verb {
            ProfileVerb::List(List {}) => {
                let items: Vec<_> = profiles.profiles.iter().map(|(name, p)| shown(&profiles, name, p)).collect();
                ctx.out.list(&PROFILE, &json!({ "items": items }))
            }
            ProfileVerb::Use(verb) => {
                profiles.get(&verb.name)?;
                profiles.current = Some(verb.name.clone());
                profiles.save()?;
                print(ctx, &profiles, &verb.name)
            }
            ProfileVerb::Set(verb) => {
                let wishes = ctx.wishes();
                let mut profile = profiles.profiles.get(&verb.name).cloned().unwrap_or_default();
                if let Some(url) = &wishes.url {
                    url.trim_end_matches('/').clone_into(&mut profile.url);
                }
                if profile.url.is_empty() {
                    return Err(Failure::usage(format!("cannot make profile '{}'", verb.name), "it needs an address")
                        .next(format!("tidewheel profile set {} --url URL", verb.name)));
                }
                profile.tenant = wishes.tenant.clone().or(profile.tenant);
                profile.ca_file = wishes.ca_file.clone().or(profile.ca_file);
                if let Some(file) = &wishes.token_file {
                    profile.token = Some(read_token(file)?);
                }
                profiles.profiles.insert(verb.name.clone(), profile);
                profiles.save()?;
                print(ctx, &profiles, &verb.name)
            }
            ProfileVerb::Delete(verb) => {
                profiles.get(&verb.name)?;
                ctx.ask.confirm(&format!("Profile '{}' will be deleted with its token.", verb.name))?;
                profiles.profiles.remove(&verb.name);
                if profiles.current.as_ref() == Some(&verb.name) {
                    profiles.current = None;
                }
                profiles.save()?;
                ctx.out.note(&format!("profile '{}' is deleted", verb.name));
                Ok(())
            }
        }
    }
}

fn shown(profiles: &Profiles, name: &str, profile: &Profile) -> Value {
    json!({
        "name": name,
        "current": profiles.current.as_deref() == Some(name),
        "url": profile.url,
        "tenant": profile.tenant,
        "token": if profile.token.is_some() { "stored" } else { "none" },
    })
}

fn print(ctx: &Ctx, profiles: &Profiles, name: &str) -> Outcome {
    ctx.out.brief(&PROFILE, &shown(profiles, name, profiles.get(name)?))
}
