//! Packages: fetched, refused, built, run in place.

use tidewheel_agent::{BuildOptions, Error, build_package, describe};
use tidewheel_proto::v1::Grant;

use crate::mock::*;

#[tokio::test(flavor = "multi_thread")]
async fn packages_that_cannot_be_used_fail_their_tasks_with_the_reason() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let slip = pack(&[("../../evil.py", b"x = 1")], &["evil"]);
    let broken = pack(&[("broken.py", b"import nothing_like_this")], &["broken"]);
    let syntax = pack(&[("syntax.py", b"def f(:\n")], &["syntax"]);
    let (slip_hash, broken_hash, syntax_hash) = (hash_of(&slip), hash_of(&broken), hash_of(&syntax));
    bench.blobs.lock().extend([
        (slip_hash.clone(), slip.into()),
        (broken_hash.clone(), broken.into()),
        (syntax_hash.clone(), syntax.into()),
        (format!("sha256:{}", "0".repeat(64)), b"something else".as_slice().into()),
    ]);
    let of = |token: &str, package: &str| Grant { package: package.to_owned(), ..bench.python(token, "add", "[1]") };
    s.grant(vec![
        of("1", &slip_hash),
        of("2", &broken_hash),
        of("3", &syntax_hash),
        of("4", &format!("sha256:{}", "1".repeat(64))),
        of("5", &format!("sha256:{}", "0".repeat(64))),
        of("6", "../../etc"),
    ])
    .await;
    let slip = s.failure("1").await;
    assert_eq!((slip.r#type.as_str(), slip.retryable), ("invalid-package", false));
    assert!(slip.message.contains("outside of its folder"), "{}", slip.message);
    assert!(!bench.dir.path().join("evil.py").exists());
    let broken = s.failure("2").await;
    assert_eq!((broken.r#type.as_str(), broken.retryable), ("load-error", false));
    assert!(broken.message.contains("nothing_like_this") || broken.detail.contains("nothing_like_this"), "{broken:?}");
    assert_eq!(s.failure("3").await.r#type, "load-error");
    assert_eq!(s.failure("4").await.r#type, "environment");
    assert!(s.failure("5").await.message.contains("damaged"));
    assert_eq!(s.failure("6").await.r#type, "invalid-package");
    s.grant(vec![bench.python("7", "add", "[1]")]).await;
    assert_eq!(s.ok("7").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_run_in_place_and_reloaded() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let folder = tempfile::tempdir().expect("a folder");
    let write = |answer: u32| {
        let text = format!("from tidewheel import task\n\n@task\ndef answer():\n    return {answer}\n");
        std::fs::write(folder.path().join("app.py"), text).expect("written");
    };
    write(41);
    let package = bench.handle.local_folder(folder.path()).await.expect("it is there");
    let of = |token: &str| Grant {
        package: package.clone(),
        entrypoint: "app:answer".into(),
        ..bench.python(token, "answer", "null")
    };
    s.grant(vec![of("1")]).await;
    assert_eq!(s.ok("1").await, 41);
    write(42);
    bench.handle.local_folder(folder.path()).await.expect("it is there");
    s.grant(vec![of("2")]).await;
    assert_eq!(s.ok("2").await, 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_becomes_a_package_that_runs() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let project = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = project.path().join(name);
        std::fs::create_dir_all(path.parent().expect("below the project")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    write("pyproject.toml", "[project]\nname = \"demo\"\nversion = \"1.2\"\n\n[tool.tidewheel]\nmodules = [\"demo.jobs\"]\n");
    write("src/demo/__init__.py", "");
    write("src/demo/jobs.py", "from tidewheel import task\n\n@task\ndef twice(x: int) -> int:\n    return 2 * x\n");
    let options = BuildOptions::new(bench.dir.path().join("build"));
    let built = build_package(project.path(), bench.dir.path(), &options).await.expect("it builds");
    assert_eq!((built.name.as_str(), built.version.as_str()), ("demo", "1.2"));
    assert_eq!(built.manifest["entries"][0]["fn"], "demo.jobs:twice");
    assert!(built.upload_manifest().get("modules").is_none());
    let again = build_package(project.path(), &bench.dir.path().join("again.zip"), &options).await.expect("it builds");
    assert_eq!(built.hash, again.hash, "the same content gives the same hash");
    let bytes = std::fs::read(&built.archive).expect("it was written");
    bench.blobs.lock().insert(built.hash.clone(), bytes.into());
    let grant = Grant { package: built.hash, entrypoint: "demo.jobs:twice".into(), ..bench.python("1", "twice", r#"{"x":21}"#) };
    s.grant(vec![grant]).await;
    assert_eq!(s.ok("1").await, 42);
    write("src/demo/jobs.py", "import os\nx = undefined_name\n");
    let error = describe(project.path(), &options).await.expect_err("the code does not load");
    let Error::Code { message, traceback } = error else { panic!("{error}") };
    assert!(format!("{message}\n{traceback}").contains("jobs.py"), "{message} {traceback}");
}
