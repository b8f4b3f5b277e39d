//! Packages: fetched, refused, built, run in place.

use tidewheel_agent::{BuildOptions, Error, build_package, describe, prepare_local};
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
async fn of_a_new_version_only_parts_that_are_not_here_are_fetched_and_of_a_known_one_nothing() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let mut state: u64 = 7;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(2_000_000)
    .collect();
    let version = |answer: u32| {
        let code = format!("from tidewheel import task\n\n@task\ndef answer():\n    return {answer}\n");
        pack(&[("data.bin", &noise), ("app.py", code.as_bytes())], &["app"])
    };
    let mut fetched = Vec::new();
    for (token, answer) in [("1", 1), ("2", 2)] {
        let package = version(answer);
        let hash = hash_of(&package);
        bench.blobs.lock().insert(hash.clone(), package.into());
        let grant = Grant { package: hash, entrypoint: "app:answer".into(), ..bench.python(token, "answer", "null") };
        s.grant(vec![grant]).await;
        assert_eq!(s.ok(token).await, answer);
        fetched.push(bench.parts.lock().drain(..).sum::<u64>());
    }
    assert!(fetched[0] > 2_000_000 && (1..700_000).contains(&fetched[1]), "{fetched:?}");
    // Its folder was pruned, its archive not: nothing has to come again.
    let hash = hash_of(&version(1));
    std::fs::remove_dir_all(bench.dir.path().join("packages").join(&hash["sha256:".len()..])).expect("removed");
    s.send(tidewheel_proto::v1::server_message::Message::PackageHint(tidewheel_proto::v1::PackageHint {
        tenant: 1,
        packages: vec![hash.clone()],
    }))
    .await;
    let folder = bench.dir.path().join("packages").join(&hash["sha256:".len()..]);
    eventually("it is unpacked again", || folder.is_dir()).await;
    assert_eq!(bench.parts.lock().len(), 0);
}

/// Bytes that do not compress, other ones for each seed.
fn noise(mut state: u64, size: usize) -> Vec<u8> {
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_arrived_damaged_comes_again_and_a_package_that_stays_damaged_never_runs() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    // Of a small archive all parts are asked for at once, of a large one the edges first.
    for (token, size) in [("1", 700_000), ("2", 3_000_000)] {
        let code = format!("from tidewheel import task\n\n@task\ndef answer():\n    return {size}\n");
        let package = pack(&[("data.bin", &noise(size as u64, size)), ("app.py", code.as_bytes())], &["app"]);
        let (hash, bytes) = (hash_of(&package), package.len() as u64);
        bench.blobs.lock().insert(hash.clone(), package.into());
        let folder = bench.dir.path().join("packages").join(&hash["sha256:".len()..]);
        let of = |bench: &Bench, token: &str| Grant {
            package: hash.clone(),
            entrypoint: "app:answer".into(),
            ..bench.python(token, "answer", "null")
        };
        let never = format!("{token}-never");
        bench.spoil.store(usize::MAX, std::sync::atomic::Ordering::Relaxed);
        s.grant(vec![of(&bench, &never)]).await;
        let failed = s.failure(&never).await;
        assert!(failed.message.contains("damaged") && failed.retryable, "{failed:?}");
        assert!(!folder.exists());
        // What did not arrive whole is found, and comes again alone.
        bench.spoil.store(1, std::sync::atomic::Ordering::Relaxed);
        bench.parts.lock().clear();
        s.grant(vec![of(&bench, token)]).await;
        assert_eq!(s.ok(token).await, size);
        let again = bench.parts.lock().drain(..).sum::<u64>();
        assert!(again < bytes * 3 / 2, "{again} of {bytes}");
    }
}

const ON_DEMAND: &str = "import os\nfrom tidewheel import ctx, task\n\n@task\ndef nothing() -> int:\n    return VERSION\n\n\
                         @task\ndef size(name: str) -> int:\n    return os.path.getsize(ctx.file(name))\n";

#[tokio::test(flavor = "multi_thread")]
async fn files_on_demand_are_fetched_when_a_task_asks_for_them_and_never_twice() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let project = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = project.path().join(name);
        std::fs::create_dir_all(path.parent().expect("below the project")).expect("made");
        std::fs::write(path, bytes).expect("written");
    };
    write("pyproject.toml", b"[project]\nname = \"d\"\nversion = \"1\"\n[tool.tidewheel]\non-demand = [\"data/**\"]\n");
    write("always.bin", &noise(1, 300_000));
    write("data/a.bin", &noise(2, 2_000_000));
    write("data/deep/b.bin", &noise(3, 3_000_000));
    write("data/__init__.py", b"");
    let options = BuildOptions::new(bench.dir.path().join("build"));
    let mut hashes = Vec::new();
    for version in [1, 2] {
        write("app.py", ON_DEMAND.replace("VERSION", &version.to_string()).as_bytes());
        let out = bench.dir.path().join(format!("{version}.zip"));
        let built = build_package(project.path(), &out, &options).await.expect("it builds");
        assert!(built.upload_manifest().get("on_demand").is_none() && built.manifest["on_demand"][0] == "data/**");
        bench.blobs.lock().insert(built.hash.clone(), std::fs::read(&built.archive).expect("written").into());
        hashes.push(built.hash);
    }
    let of = |token: &str, version: usize, function: &str, input: &str| Grant {
        package: hashes[version - 1].clone(),
        entrypoint: format!("app:{function}"),
        ..bench.python(token, function, input)
    };
    let fetched = || bench.parts.lock().drain(..).sum::<u64>();
    let folder = |version: usize| bench.dir.path().join("packages").join(&hashes[version - 1]["sha256:".len()..]);
    s.grant(vec![of("1", 1, "nothing", "null")]).await;
    assert_eq!(s.ok("1").await, 1);
    let first = fetched();
    assert!((300_000..1_500_000).contains(&first), "the code and the edges came, not 5.3 MB: {first}");
    assert!(folder(1).join("always.bin").is_file() && !folder(1).join("data/a.bin").exists());
    assert!(folder(1).join("data/__init__.py").is_file(), "code is always there");
    s.grant(vec![of("2", 1, "size", r#"{"name":"data/a.bin"}"#)]).await;
    assert_eq!(s.ok("2").await, 2_000_000);
    let second = fetched();
    assert!((500_000..2_500_000).contains(&second), "one file came: {second}");
    // Again, and after a start that finds the folder gone: everything is here.
    s.grant(vec![of("3", 1, "size", r#"{"name":"data/a.bin"}"#), of("4", 1, "size", r#"{"name":"always.bin"}"#)]).await;
    assert_eq!((s.ok("3").await, s.ok("4").await), (2_000_000.into(), 300_000.into()));
    assert_eq!(fetched(), 0);
    // A new version: of the file that is unused nothing comes, of the other one what is here is copied when it is asked for.
    s.grant(vec![of("5", 2, "nothing", "null")]).await;
    assert_eq!(s.ok("5").await, 2);
    assert!(fetched() < 600_000);
    s.grant(vec![of("6", 2, "size", r#"{"name":"data/a.bin"}"#)]).await;
    assert_eq!((s.ok("6").await, fetched()), (2_000_000.into(), 0));
    s.grant(vec![of("7", 2, "size", r#"{"name":"data/deep/b.bin"}"#)]).await;
    assert_eq!(s.ok("7").await, 3_000_000);
    assert!(fetched() > 1_500_000);
    for (token, name, kind) in [
        ("8", "data/none.bin", "FileNotFoundError"),
        ("9", "nothing.bin", "FileNotFoundError"),
        ("10", "../../secret", "ValueError"),
        ("11", "/etc/passwd", "ValueError"),
    ] {
        let input = serde_json::json!({ "name": name }).to_string();
        s.grant(vec![of(token, 2, "size", &input)]).await;
        assert_eq!(s.failure(token).await.r#type, kind, "{name}");
    }
    assert_eq!(fetched(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_of_files_on_demand_that_lead_out_of_the_project_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("pyproject.toml"), "[tool.tidewheel]\non-demand = [\"../x\"]\n").expect("written");
    let options = BuildOptions::new(dir.path().join("build"));
    let error = build_package(dir.path(), &dir.path().join("out.zip"), &options).await.expect_err("refused");
    assert!(error.to_string().contains("on-demand pattern \"../x\""), "{error}");
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
    write(
        "pyproject.toml",
        "[project]\nname = \"demo\"\nversion = \"1.2\"\n\n[tool.tidewheel]\nmodules = [\"demo.jobs\"]\n",
    );
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
    let grant = Grant {
        package: built.hash,
        entrypoint: "demo.jobs:twice".into(),
        ..bench.python("1", "twice", r#"{"x":21}"#)
    };
    s.grant(vec![grant]).await;
    assert_eq!(s.ok("1").await, 42);
    write("src/demo/jobs.py", "import os\nx = undefined_name\n");
    let error = describe(project.path(), &options).await.expect_err("the code does not load");
    let Error::Code { message, traceback } = error else { panic!("{error}") };
    assert!(format!("{message}\n{traceback}").contains("jobs.py"), "{message} {traceback}");
}

/// Why a project with this one module cannot be built: the message, and what the code said.
async fn why_not(code: &str) -> (String, String) {
    let project = tempfile::tempdir().expect("a folder");
    let write = |path: &str, text: &str| std::fs::write(project.path().join(path), text).expect("written");
    write("pyproject.toml", "[project]\nname = \"odd\"\nversion = \"1\"\n");
    write("odd.py", code);
    let cache = tempfile::tempdir().expect("a folder");
    let options = BuildOptions::new(cache.path());
    let out = cache.path().join("odd.zip");
    match build_package(project.path(), &out, &options).await.expect_err("it cannot be built") {
        Error::Code { message, traceback } => (message, traceback),
        other => (other.to_string(), String::new()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_writes_without_end_while_it_is_imported_is_stopped() {
    for stream in ["stdout", "stderr"] {
        let code = format!("import sys\nimport tidewheel\nwhile True:\n    print('x' * 10000, file=sys.{stream})\n");
        let (message, _) = why_not(&code).await;
        assert!(message.contains("`odd`") && message.contains("more than 4 MiB"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_ends_the_interpreter_while_it_is_imported_is_told() {
    let begin = "import os, sys\nfrom tidewheel import task\n@task\ndef f(): ...\n";
    for (code, how) in [("0", "code 0"), ("7", "code 7")] {
        let (message, said) = why_not(&format!("{begin}print('bye', flush=True)\nos._exit({code})\n")).await;
        assert!(message.contains("`odd`") && message.contains("ended the interpreter"), "{message}");
        assert!(message.contains(how) && said.contains("bye"), "{message} {said}");
    }
    let (message, _) = why_not(&format!("{begin}os.kill(os.getpid(), 9)\n")).await;
    assert!(message.contains("`odd`") && message.contains("signal 9"), "{message}");
    // Who goes on in the background does not keep the build waiting for what it holds open.
    let (message, _) =
        why_not(&format!("{begin}if os.fork() == 0:\n    import time; time.sleep(30)\nos._exit(0)\n")).await;
    assert!(message.contains("ended the interpreter"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_code_prints_does_not_hide_why_it_cannot_be_built() {
    let (message, said) = why_not("import tidewheel\nprint('{}')\n").await;
    assert!(message.contains("there is no @task or @workflow in odd"), "{message}");
    assert!(said.contains("{}"), "{said}");
    let (message, said) = why_not("import tidewheel\nprint('{}')\nnothing_like_this\n").await;
    assert!(message.contains("odd.py:3: NameError"), "{message}");
    assert!(said.contains("Traceback"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_with_the_name_of_a_built_in_type_is_refused_when_it_is_built() {
    for name in ["shell", "builtin.noop", "run.python"] {
        let (message, _) = why_not(&format!("from tidewheel import task\n@task(name='{name}')\ndef f(): ...\n")).await;
        assert!(message.contains("odd:f") && message.contains(&format!("'{name}' is built in")), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_is_pruned_of_all_that_is_not_in_use() {
    let mut bench = Bench::start_with(|c| {
        c.cache_bytes = 1;
        for old in
            [format!("packages/{}", "a".repeat(64)), "envs/old".into(), "uv-cache/old".into(), "pylib/old".into()]
        {
            let place = c.data_dir.join(old);
            std::fs::create_dir_all(&place).expect("made");
            std::fs::write(place.join("file"), vec![0u8; 10_000]).expect("written");
        }
    })
    .await;
    let mut s = bench.connected().await;
    let here = |name: &str| {
        let entries = std::fs::read_dir(bench.dir.path().join(name)).into_iter().flatten().flatten();
        entries.filter(|e| e.path().is_dir()).count()
    };
    eventually("the old ones are gone", || {
        here("packages") + here("envs") + here("uv-cache") == 0 && here("pylib") == 1
    })
    .await;
    let flag = bench.dir.path().join("flag");
    let input = serde_json::json!({ "path": flag }).to_string();
    s.grant(vec![bench.python("1", "wait_for", &input)]).await;
    s.started("1").await;
    // Another package comes in, and the cache is looked through while the first one runs.
    let second = pack(&[("app.py", b"from tidewheel import task\n\n@task\ndef f():\n    return 1\n")], &["app"]);
    let hash = hash_of(&second);
    bench.blobs.lock().insert(hash.clone(), second.into());
    s.grant(vec![Grant { package: hash, entrypoint: "app:f".into(), ..bench.python("2", "f", "null") }]).await;
    assert_eq!(s.ok("2").await, 1);
    std::fs::write(&flag, "").expect("written");
    assert_eq!(s.ok("1").await, "seen");
    s.grant(vec![bench.python("3", "add", "[1]")]).await;
    assert_eq!(s.ok("3").await, 2);
    assert_eq!((here("packages"), here("envs"), here("pylib")), (2, 1, 1), "both packages share an environment");
}

/// A wheel without dependencies, made by hand.
fn wheel(dir: &std::path::Path, code: &[u8]) -> std::path::PathBuf {
    use std::io::Write;
    let file = dir.join("tinydep-1.0-py3-none-any.whl");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&file).expect("a file"));
    let members: [(&str, &[u8]); 4] = [
        ("tinydep.py", code),
        ("tinydep-1.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: tinydep\nVersion: 1.0\n"),
        (
            "tinydep-1.0.dist-info/WHEEL",
            b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        ("tinydep-1.0.dist-info/RECORD", b"tinydep.py,,\n"),
    ];
    for (name, content) in members {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).expect("a member");
        zip.write_all(content).expect("content");
    }
    zip.finish().expect("an archive");
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn dependencies_are_locked_and_installed_once() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let project = tempfile::tempdir().expect("a folder");
    let dependency = wheel(bench.dir.path(), b"VALUE = 42\n");
    let toml = format!(
        "[project]\nname = \"demo\"\nversion = \"1\"\ndependencies = [\"tinydep @ file://{}\"]\n",
        dependency.display()
    );
    std::fs::write(project.path().join("pyproject.toml"), toml).expect("written");
    let code = "import tinydep\nfrom tidewheel import task\n\n@task\ndef value():\n    return tinydep.VALUE\n";
    std::fs::write(project.path().join("app.py"), code).expect("written");
    let options = BuildOptions::new(bench.dir.path());
    let built = build_package(project.path(), bench.dir.path(), &options).await.expect("it builds");
    let locked = built.manifest["lock"].as_str().is_some_and(|lock| lock.contains("--hash=sha256:"));
    assert!(locked || !built.warnings.is_empty(), "{built:?}");
    let bytes = std::fs::read(&built.archive).expect("it was written");
    bench.blobs.lock().insert(built.hash.clone(), bytes.into());
    let grant = Grant { package: built.hash, entrypoint: "app:value".into(), ..bench.python("1", "value", "null") };
    s.grant(vec![grant]).await;
    assert_eq!(s.ok("1").await, 42);
    let environments = std::fs::read_dir(bench.dir.path().join("envs")).expect("there").flatten();
    assert_eq!(environments.filter(|e| e.path().is_dir()).count(), 1, "the build and the run share one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_project_is_run_with_its_dependencies() {
    let dir = tempfile::tempdir().expect("a folder");
    let project = dir.path().join("project");
    std::fs::create_dir_all(project.join("src/shop")).expect("made");
    let dependency = wheel(dir.path(), b"VALUE = 42\n");
    let toml = format!("[project]\nname = \"demo\"\ndependencies = [\"tinydep @ file://{}\"]\n", dependency.display());
    std::fs::write(project.join("pyproject.toml"), toml).expect("written");
    let file = project.join("src/shop/jobs.py");
    std::fs::write(&file, "import tinydep\nfrom tidewheel import task\n").expect("written");
    let options = BuildOptions::new(dir.path().join("data"));
    let run = |code: tidewheel_agent::LocalCode, program: &str| {
        let path = std::env::join_paths(&code.paths).expect("plain names");
        let output = std::process::Command::new(&code.python).args(["-c", program]).env("PYTHONPATH", path).output();
        output.expect("it starts")
    };
    let code = prepare_local(&file, &options).await.expect("it is prepared");
    let output = run(code, "import shop.jobs; print(shop.jobs.tinydep.VALUE)");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "42\n", "{output:?}");
    // A file of no project runs with what is there.
    let alone = dir.path().join("alone.py");
    std::fs::write(&alone, "").expect("written");
    let code = prepare_local(&alone, &options).await.expect("it is prepared");
    assert!(run(code.clone(), "import tidewheel").status.success());
    assert!(!run(code, "import tinydep").status.success());
    std::fs::write(project.join("pyproject.toml"), "[project]\ndependencies = [\"nothing @ file:///none.whl\"]\n")
        .expect("written");
    let error = prepare_local(&file, &options).await.expect_err("it cannot be installed");
    assert!(matches!(error, Error::Environment { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_whose_environment_cannot_be_built_fails_with_the_end_of_the_output() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let lock = "nothing-like-this @ file:///nonexistent/nothing_like_this-1.0-py3-none-any.whl\n";
    let package = pack_locked(&[("app.py", b"")], &["app"], lock);
    let hash = hash_of(&package);
    bench.blobs.lock().insert(hash.clone(), package.into());
    s.grant(vec![Grant { package: hash, ..bench.python("1", "add", "[1]") }]).await;
    let failure = s.failure("1").await;
    assert_eq!((failure.r#type.as_str(), failure.retryable), ("environment", false));
    assert!(failure.message.contains("nothing"), "{}", failure.message);
}
