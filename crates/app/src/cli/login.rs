//! `tidewheel login`

use std::io::{IsTerminal, Read};

use clap::Args;
use serde_json::json;

use super::Ctx;
use super::common::field;
use super::shapes::WHO;
use crate::client::Client;
use crate::fail::{Exit, Outcome, While};
use crate::profile::{Profile, Profiles, Secret, path, read_token};

/// Store a server and a token
///
/// Asks for the token without showing it, checks it, and stores both in the profile file, which only you can read. In a
/// script, pipe the token in or name a file with `--token-file`. The token is never taken from the command line.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel login --url https://tidewheel.example
  tidewheel login --url https://tidewheel.example --profile prod --token-file prod.token")]
pub(crate) struct Login {}

impl Login {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        // A profile that does not exist yet is what is being made here, so the usual resolution does not apply.
        let wishes = ctx.wishes();
        let mut profiles = Profiles::load()?;
        let name = wishes.profile.clone().or(profiles.current.clone()).unwrap_or_else(|| "default".to_owned());
        let known = profiles.profiles.get(&name).cloned().unwrap_or_default();
        let url = match &wishes.url {
            Some(url) => url.clone(),
            None if !known.url.is_empty() => known.url.clone(),
            None => ctx.ask.line("Address of the server", crate::profile::DEFAULT_URL, "--url URL")?,
        };
        let token = token(ctx)?;
        let profile = Profile {
            url: url.trim_end_matches('/').to_owned(),
            token: Some(token),
            tenant: wishes.tenant.clone().or(known.tenant),
            ca_file: wishes.ca_file.clone().or(known.ca_file),
        };
        let connection = crate::profile::Connection {
            url: profile.url.clone(),
            url_origin: "login".to_owned(),
            token: profile.token.clone(),
            token_origin: "login".to_owned(),
            tenant: profile.tenant.clone(),
            ca_file: profile.ca_file.clone(),
            profile: Some(name.clone()),
            timeout: wishes.timeout()?,
        };
        let request = Client::new(&connection)?.get("/whoami").doing(format!("log in to {}", profile.url));
        let mut who = request.next("check the address and the token").value().await?;
        profiles.profiles.insert(name.clone(), profile);
        profiles.current = Some(name.clone());
        profiles.save()?;
        let file = path()?;
        ctx.out.note(&format!(
            "logged in as {}; stored as profile '{name}' in {}",
            field(&who, "name"),
            file.display()
        ));
        who["url"] = json!(connection.url);
        ctx.out.brief(&WHO, &who)
    }
}

fn token(ctx: &Ctx) -> Outcome<Secret> {
    let wishes = ctx.wishes();
    if let Some(file) = &wishes.token_file {
        return read_token(file);
    }
    if let Some(token) = wishes.token.as_deref().map(str::trim).filter(|t| !t.is_empty()) {
        return Ok(Secret::new(token));
    }
    if !std::io::stdin().is_terminal() {
        let mut text = String::new();
        std::io::stdin()
            .take(64 << 10)
            .read_to_string(&mut text)
            .doing(Exit::Usage, || "cannot read the token".to_owned())?;
        if !text.trim().is_empty() {
            return Ok(Secret::new(text.trim()));
        }
    }
    ctx.ask.secret("Token", "--token-file FILE, or pipe it in")
}
