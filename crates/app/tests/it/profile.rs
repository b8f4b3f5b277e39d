//! Which server is asked, and as whom.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::mock::{Mock, command, json as answer, ran};

fn who() -> Mock {
    Mock::always(answer(
        200,
        json!({"token": "tok_1", "name": "ann", "role": "admin", "tenant": "default", "system": true}),
    ))
}

#[test]
fn login_checks_the_token_and_keeps_it_private() {
    let mock = who();
    let mut login = command(mock.home.path());
    login.args(["login", "--url", &mock.url, "--profile", "prod"]);
    let ran1 = ran(login, "tw_secret\n");
    assert_eq!(ran1.code, 0, "{ran1:?}");
    assert!(!ran1.out.contains("tw_secret") && !ran1.err.contains("tw_secret"), "{ran1:?}");
    assert_eq!(mock.asked()[0].header("authorization"), Some("Bearer tw_secret"));
    let file = mock.home.path().join(".config/tidewheel/config.toml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let mut again = command(mock.home.path());
    again.arg("whoami");
    assert_eq!(ran(again, "").code, 0);
    assert_eq!(mock.asked()[1].header("authorization"), Some("Bearer tw_secret"));
    let mut list = command(mock.home.path());
    list.args(["profile", "list", "-o", "json"]);
    let listed = ran(list, "");
    assert!(listed.out.contains("\"prod\"") && !listed.out.contains("tw_secret"), "{listed:?}");
    let mut logout = command(mock.home.path());
    logout.arg("logout");
    assert_eq!(ran(logout, "").code, 0);
    assert!(!std::fs::read_to_string(&file).unwrap().contains("tw_secret"));
}

#[test]
fn a_wrong_token_is_not_kept() {
    let mock = Mock::always(crate::mock::problem(401, "unauthenticated", "no such token"));
    let mut login = command(mock.home.path());
    login.args(["login", "--url", &mock.url]);
    assert_eq!(ran(login, "tw_wrong").code, 3);
    assert!(!mock.home.path().join(".config/tidewheel/config.toml").exists());
}

#[test]
fn a_stored_token_does_not_follow_another_address() {
    let (home, stranger) = (who(), who());
    let mut login = command(home.home.path());
    login.args(["login", "--url", &home.url]);
    assert_eq!(ran(login, "tw_secret").code, 0);
    let mut elsewhere = command(home.home.path());
    elsewhere.args(["whoami", "--url", &stranger.url]);
    assert_eq!(ran(elsewhere, "").code, 0);
    assert_eq!(stranger.asked()[0].header("authorization"), None);
}

#[test]
fn a_folder_with_a_dev_server_needs_no_setup() {
    let mock = who();
    let folder = mock.home.path().join("project/.tidewheel");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("dev.json");
    std::fs::write(&file, json!({"url": mock.url, "token": "tw_dev"}).to_string()).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let deep = mock.home.path().join("project/src/deep");
    std::fs::create_dir_all(&deep).unwrap();
    let run = || {
        let mut command = command(mock.home.path());
        command.arg("whoami").current_dir(&deep);
        ran(command, "")
    };
    assert_eq!(run().code, 0);
    assert_eq!(mock.asked()[0].header("authorization"), Some("Bearer tw_dev"));
    // One that others can write or read is not believed.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    run();
    assert_eq!(mock.asked().len(), 1);
}

#[test]
fn tenant_and_token_come_from_the_environment() {
    let mock = who();
    let mut command = command(mock.home.path());
    command
        .args(["task", "list", "--tenant", "acme"])
        .env("TIDEWHEEL_URL", &mock.url)
        .env("TIDEWHEEL_TOKEN", "tw_env\n");
    ran(command, "");
    let asked = &mock.asked()[0];
    assert_eq!(asked.header("tidewheel-tenant"), Some("acme"));
    assert_eq!(asked.header("authorization"), Some("Bearer tw_env"));
}
