//! What a package runs while it is built (the build backend of an sdist) is kept from what is the agent's, and within limits.

use std::time::Duration;

use tidewheel_agent::{BuildLimits, Isolation};
use tidewheel_proto::v1::{Failure, Grant};

use crate::mock::*;

/// A build backend that first does what a test says, then makes a wheel whose module holds what was found.
const BACKEND: &str = r#"
import os, socket, sys, zipfile

SECRETS = SECRETS_HERE
FOUND = []


def look():
    for path in SECRETS + ["/proc/1/environ", "/proc/%d/environ" % os.getppid()]:
        try:
            with open(path, "rb") as file:
                text = file.read().decode(errors="replace")
                FOUND.extend(word for word in ["secret", "TIDEWHEEL_TOKEN"] if word in text)
        except OSError:
            pass
    FOUND.extend(name for name in os.environ if name.startswith("TIDEWHEEL_T") or name == "CREDENTIALS_DIRECTORY")
    for folder in [os.path.dirname(path) for path in SECRETS]:
        try:
            # What it can write there is in the sandbox alone, and goes with it.
            open(os.path.join(folder, "planted"), "w").close()
        except OSError:
            pass


def deed():
    DEED_HERE


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    look()
    deed()
    name = "hostile-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        wheel.writestr("hostile.py", "FOUND = %r\n" % (FOUND,))
        wheel.writestr("hostile-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
        wheel.writestr("hostile-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("hostile-1.0.dist-info/RECORD", "hostile.py,,\n")
    return name
"#;

/// An sdist with a build backend of its own, which needs nothing from an index.
fn sdist(secrets: &[std::path::PathBuf], deed: &str) -> Vec<u8> {
    let list: Vec<String> = secrets.iter().map(|path| format!("{:?}", path.display().to_string())).collect();
    let backend = BACKEND.replace("SECRETS_HERE", &format!("[{}]", list.join(", "))).replace("DEED_HERE", deed);
    let project = "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n\n[project]\nname = \"hostile\"\nversion = \"1.0\"\n";
    let mut out = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, text) in [
        ("pyproject.toml", project),
        ("backend.py", &backend),
        ("PKG-INFO", "Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        out.append_data(&mut header, format!("hostile-1.0/{name}"), text.as_bytes()).expect("a member");
    }
    out.into_inner().expect("an archive").finish().expect("compressed")
}

/// An index of one file: every request gets it.
async fn serve(file: Vec<u8>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let router = axum::Router::new().fallback(move || std::future::ready(file.clone()));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/hostile-1.0.tar.gz")
}

const CODE: &[u8] = b"import hostile\nfrom tidewheel import task\n\n@task\ndef found():\n    return hostile.FOUND\n";

/// Grants a task of a package whose dependency is built so.
async fn granted(bench: &Bench, s: &Session, token: &str, sdist: Vec<u8>) {
    let lock = format!("hostile @ {}\n", serve(sdist).await);
    let package = pack_locked(&[("app.py", CODE)], &["app"], &lock);
    let hash = hash_of(&package);
    bench.blobs.lock().insert(hash.clone(), package.into());
    let grant = Grant { package: hash, entrypoint: "app:found".into(), ..bench.python(token, "found", "null") };
    s.grant(vec![grant]).await;
}

/// What becomes of a build that does this within limits.
async fn stopped(deed: &str, limits: BuildLimits, isolation: Isolation) -> Failure {
    let mut bench = Bench::start_with(|c| {
        c.build = limits;
        c.isolation = isolation;
    })
    .await;
    let mut s = bench.connected().await;
    granted(&bench, &s, "1", sdist(&[], deed)).await;
    let failure = s.failure("1").await;
    // The agent is as well as before, and nothing of the build is left.
    s.grant(vec![bench.python("2", "add", "[1]")]).await;
    assert_eq!(s.ok("2").await, 2);
    let marker = format!("{}/envs/.part-", bench.dir.path().display());
    eventually("the build is gone", || processes_of(&marker).is_empty()).await;
    let envs = std::fs::read_dir(bench.dir.path().join("envs")).expect("there").flatten();
    let left: Vec<_> = envs.filter(|e| e.file_name().to_string_lossy().starts_with(".part-")).collect();
    assert!(left.len() <= 1, "only what compiles another environment may be at work: {left:?}");
    assert_eq!((failure.r#type.as_str(), failure.retryable), ("environment", false), "{failure:?}");
    failure
}

fn isolations(test: &str) -> Vec<Isolation> {
    let mut all = vec![Isolation::Off];
    all.extend(has_sandbox(test).then_some(Isolation::On));
    all
}

fn limits() -> BuildLimits {
    BuildLimits { time: PATIENCE, ..BuildLimits::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_finds_nothing_of_the_agents_while_it_is_built() {
    if !has_sandbox("a_package_finds_nothing_of_the_agents_while_it_is_built") {
        return;
    }
    let mut secret = None;
    let mut bench = Bench::start_with(|c| {
        c.isolation = Isolation::On;
        let file = c.data_dir.join("identity.json");
        std::fs::write(&file, "{\"key\": \"secret\"}").expect("written");
        secret = Some(file);
    })
    .await;
    let mut s = bench.connected().await;
    assert!(s.hello.enforced["builds"].starts_with("sandbox: bubblewrap; time 1800 s"), "{:?}", s.hello.enforced);
    let secrets = [secret.expect("the agent was started"), "/root/.ssh/id_ed25519".into(), "/etc/shadow".into()];
    granted(&bench, &s, "1", sdist(&secrets, "pass")).await;
    assert_eq!(s.ok("1").await, serde_json::json!([]));
    assert!(!bench.dir.path().join("planted").exists() && !std::path::Path::new("/etc/planted").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_not_told_the_agents_token_where_it_is_not_isolated_either() {
    let mut bench = Bench::start_with(|c| c.isolation = Isolation::Off).await;
    let mut s = bench.connected().await;
    assert!(s.hello.enforced["builds"].starts_with("sandbox: none; time 1800 s"), "{:?}", s.hello.enforced);
    granted(&bench, &s, "1", sdist(&[], "pass")).await;
    assert_eq!(s.ok("1").await, serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_never_ends_is_stopped() {
    for isolation in isolations("a_build_that_never_ends_is_stopped") {
        // A daemon outside of its session, too.
        let deed = "os.fork() or os.setsid()\n    while True: pass";
        let failure = stopped(deed, BuildLimits { time: Duration::from_secs(8), ..limits() }, isolation).await;
        assert!(failure.message.contains("did not end within 8 s; raise --build-time"), "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_forks_without_end_is_stopped() {
    for isolation in isolations("a_build_that_forks_without_end_is_stopped") {
        let deed = "\n    while True:\n        try:\n            os.fork()\n        except OSError:\n            pass";
        let failure = stopped(deed, BuildLimits { processes: 64, ..limits() }, isolation).await;
        assert!(failure.message.contains("more than 64 processes and threads; raise --build-processes"), "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fills_the_memory_is_stopped() {
    for isolation in isolations("a_build_that_fills_the_memory_is_stopped") {
        let deed = "\n    kept = []\n    while True:\n        kept.append(bytearray(os.urandom(1 << 20)))";
        let failure = stopped(deed, BuildLimits { memory_bytes: 300 << 20, ..limits() }, isolation).await;
        let told = failure.message.contains("more than 300 MiB of memory; raise --build-memory")
            // Without a control group the kernel refuses the memory itself.
            || failure.message.contains("MemoryError");
        assert!(told, "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fills_the_disk_is_stopped() {
    for isolation in isolations("a_build_that_fills_the_disk_is_stopped") {
        let deed = "\n    number = 0\n    while True:\n        number += 1\n        with open('filler%d' % number, 'wb') as file:\n            file.write(os.urandom(1 << 20) * 16)";
        let failure = stopped(deed, BuildLimits { disk_bytes: 300 << 20, ..limits() }, isolation).await;
        assert!(failure.message.contains("it used 300 MiB of disk; raise --build-disk"), "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_prints_without_end_does_not_fill_the_agents_memory() {
    let deed =
        "\n    for _ in range(2000): sys.stderr.write('x' * 100000 + '\\n')\n    raise SystemExit('the last words')";
    let failure = stopped(deed, limits(), Isolation::Off).await;
    assert!(failure.message.len() < 40_000 && failure.message.contains("the last words"), "{}", failure.message.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_leaves_a_link_where_its_environment_is_to_be_is_refused() {
    for isolation in isolations("a_build_that_leaves_a_link_where_its_environment_is_to_be_is_refused") {
        let deed = "\n    import shutil\n    env = os.path.dirname(os.path.dirname(sys.executable))\n    shutil.rmtree(env, ignore_errors=True)\n    os.symlink('/etc', env)\n    os._exit(0)";
        let failure = stopped(deed, limits(), isolation).await;
        assert!(failure.message.contains("failed") || failure.message.contains("put a link"), "{failure:?}");
    }
}
