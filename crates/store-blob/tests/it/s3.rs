//! A real S3 server, moto from PyPI, on the loopback. It is installed once into the scratch folder of the build.

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use bytes::Bytes;
use tidewheel_store::blob::Blobs;
use tidewheel_store_blob::{ObjectBlobs, S3Settings};

const TEST: &str = "s3::an_s3_server_keeps_every_promise_and_its_refusals_are_clear";

/// The server, ended with the test: its input is closed, and it is killed should that not be enough.
struct Server {
    child: Child,
    settings: S3Settings,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &Path, args: &[&str]) -> Result<(), String> {
    let shown = || format!("{} {}", program.display(), args.join(" "));
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}", shown()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}", shown(), text.lines().last().unwrap_or("no word why")))
}

/// The interpreter of an environment that has moto; made on the first call.
fn python() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("moto-5");
    let (python, done) = (folder.join("bin/python"), folder.join("complete"));
    if !done.exists() {
        let folder = folder.to_str().ok_or("the path of the build is not UTF-8")?;
        run(Path::new("python3"), &["-m", "venv", "--clear", folder])?;
        run(&python, &["-m", "pip", "install", "-q", "--disable-pip-version-check", "moto[server]>=5,<6"])?;
        std::fs::write(done, "").map_err(|error| error.to_string())?;
    }
    Ok(python)
}

fn start() -> Result<Server, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/s3_server.py");
    let mut child = Command::new(python()?)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let stdout = child.stdout.take().ok_or("stdout is piped")?;
    let mut server = Server { child, settings: S3Settings::default() };
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
    let value = |name: &str| {
        let rest = line.split(&format!("\"{name}\": \"")).nth(1)?;
        Some(rest.split('"').next()?.to_owned())
    };
    let missing = || format!("the server did not start; it said '{}'", line.trim());
    server.settings = S3Settings {
        bucket: "blobs".to_owned(),
        endpoint: value("endpoint").ok_or_else(missing)?,
        access_key_id: value("key").ok_or_else(missing)?,
        secret_access_key: value("secret").ok_or_else(missing)?,
        prefix: "some/prefix".to_owned(),
        allow_http: true,
        ..S3Settings::default()
    };
    Ok(server)
}

async fn refusal(settings: &S3Settings) -> String {
    let blobs = ObjectBlobs::s3(settings).expect("the settings make sense");
    let begun = Instant::now();
    let error = blobs.put(1, Bytes::from_static(b"x")).await.expect_err("a put that cannot be");
    // Repeating what is refused for good would only hold the caller up; a minute is far beyond any answer.
    assert!(begun.elapsed().as_secs() < 60, "refused only after {:?}: {error}", begun.elapsed());
    error.to_string()
}

#[tokio::test]
async fn an_s3_server_keeps_every_promise_and_its_refusals_are_clear() {
    let server = match start() {
        Ok(server) => server,
        Err(why) => {
            // Past the capture of the runner, so that the test command counts it.
            let _ = writeln!(std::io::stderr(), "\nnot run: {TEST}: no local S3 server: {why}");
            return;
        }
    };
    let right = server.settings.clone();
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = ObjectBlobs::s3(&right).expect("the settings make sense");
    super::suite::check(&blobs, folder.path()).await;
    let wrong_secret = S3Settings { secret_access_key: "wrong".to_owned(), ..right.clone() };
    let wrong_key = S3Settings { access_key_id: "AKIAXXXXXXXXXXXXXXXX".to_owned(), ..right.clone() };
    for settings in [&wrong_secret, &wrong_key] {
        let error = refusal(settings).await;
        assert!(error.contains("blobs.s3.accessKey"), "{error}");
        assert!(!error.contains("wrong") && !error.contains(&right.secret_access_key), "it shows a secret: {error}");
    }
    let error = refusal(&S3Settings { bucket: "nowhere".to_owned(), ..right.clone() }).await;
    assert!(error.contains("nowhere") && error.contains("bucket"), "{error}");
    let endpoint = right.endpoint.clone();
    drop(server);
    let error = refusal(&right).await;
    assert!(error.contains(endpoint.trim_start_matches("http://")), "{error}");
}
