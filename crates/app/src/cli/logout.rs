//! `tidewheel logout`

use clap::Args;

use super::Ctx;
use crate::fail::{Exit, Failure, Outcome};
use crate::profile::Profiles;

/// Forget the stored token
///
/// Takes the token out of the profile in use; address and tenant stay. The token itself stays valid: revoke it with
/// `tidewheel token revoke`.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel logout\n  tidewheel logout --profile prod")]
pub(crate) struct Logout {}

impl Logout {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        let mut profiles = Profiles::load()?;
        let name = ctx.wishes().profile.clone().or(profiles.current.clone());
        let Some(name) = name else {
            return Err(
                Failure::new(Exit::Missing, "nothing to forget", "no profile is stored").next("tidewheel login")
            );
        };
        profiles.get(&name)?;
        if let Some(profile) = profiles.profiles.get_mut(&name) {
            profile.token = None;
        }
        profiles.save()?;
        ctx.out.note(&format!("the token of profile '{name}' is forgotten"));
        Ok(())
    }
}
