//! Packages: what is taken, what is refused, what its tasks get.

use std::io::{Cursor, Write as _};

use axum::body::Body;
use axum::http::Method;
use serde_json::json;
use tidewheel_api::ApiConfig;

use crate::node::{Got, Node, another_millisecond};

pub(crate) fn archive(members: &[(&str, &str)]) -> Vec<u8> {
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in members {
        out.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        out.write_all(content.as_bytes()).unwrap();
    }
    out.finish().unwrap().into_inner()
}

pub(crate) const MANIFEST: &str = r#"{"format":"folder","entries":[{"name":"extract","fn":"pdf.tasks:extract",
    "doc":"Extracts.","defaults":{"queue":"pdf","retry":{"max_attempts":7},"timeout":"10m","priority":"high","cpu":1,
    "memory":"512MB","requires":{"gpu":true}}}]}"#;

pub(crate) async fn put(node: &Node, path: &str, archive: &[u8], manifest: &str) -> Got {
    let mut body = Vec::new();
    let boundary = "frontier";
    for (name, content) in [("manifest", manifest.as_bytes()), ("archive", archive)] {
        write!(body, "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\r\n")
            .unwrap();
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    write!(body, "--{boundary}--\r\n").unwrap();
    let request = node.request(Method::PUT, path, &node.admin);
    let request = request.header("content-type", format!("multipart/form-data; boundary={boundary}"));
    node.send(request.body(Body::from(body)).unwrap()).await
}

#[tokio::test]
async fn a_package_brings_task_types_and_their_queue() {
    let node = Node::start().await;
    let bytes = archive(&[("pdf/tasks.py", "def extract(): pass")]);
    let got = put(&node, "/api/v1/packages/pdf/1.0.0", &bytes, MANIFEST).await.is(201);
    let package = got.json();
    assert_eq!(package["analysis"]["members"], 1);
    put(&node, "/api/v1/packages/pdf/1.0.0", &bytes, MANIFEST).await.is(200);
    let other = archive(&[("pdf/tasks.py", "def extract(): return 1")]);
    let got = put(&node, "/api/v1/packages/pdf/1.0.0", &other, MANIFEST).await.is(409);
    assert_eq!(got.code(), "conflict");
    node.get("/api/v1/queues/pdf").await.is(200);
    let types = node.get("/api/v1/task-types").await.is(200).json();
    assert_eq!(types["items"][0]["entrypoint"], "pdf.tasks:extract");
    let created = node.post("/api/v1/tasks", r#"{"type":"extract"}"#).await.is(201).json();
    assert_eq!(
        (&created["queue"], &created["priority"], &created["max_attempts"]),
        (&json!("pdf"), &json!(8), &json!(7))
    );
    let shown = node.get(&format!("/api/v1/tasks/{}", created["id"].as_str().unwrap())).await.json();
    assert_eq!(shown["package"], package["hash"]);
    let content = node.get("/api/v1/packages/pdf/1.0.0/content").await.is(200);
    assert_eq!(content.body, bytes);
}

#[tokio::test]
async fn a_package_cannot_take_over_the_types_that_agents_run_themselves() {
    let node = Node::start().await;
    let manifest = |name: &str, kind: &str| {
        format!(
            r#"{{"format":"folder","entries":[{{"name":"own","fn":"a:b"}},{{"name":"{name}","fn":"a:c","kind":"{kind}"}}]}}"#
        )
    };
    for (at, name) in ["shell", "run.shell", "run.python", "builtin.noop", "builtin.any"].iter().enumerate() {
        for kind in ["", "task"] {
            let path = format!("/api/v1/packages/taker/{at}");
            let got = put(&node, &path, &archive(&[("a.py", name)]), &manifest(name, kind)).await.is(422);
            assert_eq!(got.code(), "invalid-package");
            let told = got.json()["errors"][0].clone();
            assert_eq!(told["pointer"], "/entries/1/name");
            assert!(told["detail"].as_str().unwrap().contains(&format!("'{name}' is built in")), "{told}");
            // Nor by the manifest that lies in the archive.
            let inside = manifest(name, kind);
            let bytes = archive(&[("a.py", name), ("tidewheel-manifest.json", &inside)]);
            let request = node.request(Method::PUT, &path, &node.admin).header("content-type", "application/zip");
            node.send(request.body(Body::from(bytes)).unwrap()).await.is(422);
            node.get(&path).await.is(404);
        }
    }
    assert_eq!(node.get("/api/v1/task-types").await.is(200).json()["items"], json!([]));
    // Names beside them are free, and workflows have names of their own.
    for (at, (name, kind)) in
        [("shells", "task"), ("builtin", "task"), ("run", ""), ("shell", "workflow")].iter().enumerate()
    {
        let path = format!("/api/v1/packages/free/{at}");
        put(&node, &path, &archive(&[("a.py", name)]), &manifest(name, kind)).await.is(201);
    }
}

#[tokio::test]
async fn a_retry_factor_has_one_range_everywhere() {
    let node = Node::start().await;
    let manifest = |factor: &str| {
        format!(
            r#"{{"format":"folder","entries":[{{"name":"a","fn":"a:b","defaults":{{"retry":{{"factor":{factor}}}}}}}]}}"#
        )
    };
    for (factor, status) in [("1", 201), ("99.5", 201), ("100", 201), ("100.5", 400), ("0.5", 400)] {
        let retry = format!(r#"{{"factor":{factor}}}"#);
        let task = node.post("/api/v1/tasks", format!(r#"{{"type":"t","retry":{retry}}}"#)).await.is(status);
        let path = format!("/api/v1/queues/q{factor}");
        let queue = node.call(Method::PUT, &path, format!(r#"{{"retry":{retry}}}"#)).await.is(status);
        let path = format!("/api/v1/packages/p/{factor}");
        let package = put(&node, &path, &archive(&[("a.py", factor)]), &manifest(factor)).await.is(status);
        for got in [task, queue, package].iter().filter(|_| status == 400) {
            let detail = got.json()["errors"][0]["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains("a factor is 1 to 100"), "{detail}");
        }
    }
}

#[tokio::test]
async fn keys_and_queue_settings_of_a_decorator_hold() {
    let node = Node::start().await;
    let manifest = r#"{"format":"folder","modules":["a"],"entries":[{"name":"ship","fn":"a:ship","kind":"task",
        "schema_in":{"properties":{"customer":{}}},"defaults":{"queue":"ships","key":"customer","rate":"100/m",
        "batch":{"size":50,"wait":"2s"}}}]}"#;
    put(&node, "/api/v1/packages/ships/1", &archive(&[("a.py", "")]), manifest).await.is(201);
    let settings = node.get("/api/v1/queues/ships").await.is(200).json()["settings"].clone();
    let found = (&settings["rate"], &settings["batch_size"], &settings["batch_wait"]);
    assert_eq!(found, (&json!("100/m"), &json!(50), &json!("2s")));
    let id = node.submit(r#"{"type":"ship","input":{"customer":"ann"}}"#).await;
    assert_eq!(node.get(&format!("/api/v1/tasks/{id}")).await.json()["key"], "ann");
    let got = node.post("/api/v1/tasks", r#"{"type":"ship","input":{}}"#).await.is(400);
    assert_eq!(got.json()["errors"][0]["pointer"], "/input");
}

#[tokio::test]
async fn a_batch_that_an_existing_queue_does_not_give_is_told() {
    let node = Node::start().await;
    let manifest = r#"{"format":"folder","entries":[{"name":"send","fn":"a:b","defaults":{"queue":"mail","rate":"100/m",
        "batch":{"size":50,"wait":"200ms"}}}]}"#;
    let bytes = archive(&[("a.py", "")]);
    let path = "/api/v1/packages/mail/1";
    // A queue that the package makes has what it asks for.
    let first = put(&node, "/api/v1/packages/mail/0", &bytes, manifest).await.is(201).json();
    let rated = "task 'send' asks for batches, but queue 'mail' has a rate, which lets tasks out one at a time; take it away \
                 with: tidewheel queue limits mail --rate ''";
    assert_eq!(first["warnings"], json!([rated]));
    node.call(Method::PUT, "/api/v1/queues/mail", "{}").await.is(200);
    for status in [201, 200] {
        let stored = put(&node, path, &archive(&[("a.py", "1")]), manifest).await.is(status).json();
        let warnings = stored["warnings"].as_array().unwrap();
        assert_eq!(
            warnings[0],
            "task 'send' asks for batches of 50 after at most 200ms, but queue 'mail' exists and hands tasks over one by \
             one; change it with: tidewheel queue limits mail --batch-size 50 --batch-wait 200ms"
        );
        assert_eq!(
            warnings[1],
            "task 'send' asks for rate 100/m, but queue 'mail' exists and has no rate; change it with: tidewheel queue \
             limits mail --rate 100/m"
        );
        assert_eq!(warnings.len(), 2);
    }
    assert!(node.get(path).await.json().get("warnings").is_none());
    let settings = r#"{"rate":"","batch_size":50,"batch_wait":"200ms"}"#;
    node.call(Method::PATCH, "/api/v1/queues/mail", settings).await.is(200);
    let plain = manifest.replace(r#""rate":"100/m","#, "");
    let stored = put(&node, "/api/v1/packages/mail/2", &archive(&[("a.py", "2")]), &plain).await.is(201).json();
    assert!(stored.get("warnings").is_none(), "{stored}");
}

#[tokio::test]
async fn a_yanked_version_gives_way_to_the_one_before() {
    let node = Node::start().await;
    let one = archive(&[("a.py", "1")]);
    let two = archive(&[("a.py", "2")]);
    let first = put(&node, "/api/v1/packages/p/1", &one, MANIFEST).await.is(201).json();
    another_millisecond().await;
    let second = put(&node, "/api/v1/packages/p/2", &two, MANIFEST).await.is(201).json();
    let served = async || node.get("/api/v1/task-types").await.json()["items"][0]["hash"].clone();
    assert_eq!(served().await, second["hash"]);
    let got = node.post("/api/v1/tasks", r#"{"type":"extract","package":"p@1"}"#).await.is(201).json();
    let shown = node.get(&format!("/api/v1/tasks/{}", got["id"].as_str().unwrap())).await.json();
    assert_eq!(shown["package"], first["hash"]);
    assert_eq!(node.post("/api/v1/packages/p/2:yank", Body::empty()).await.is(200).json()["state"], "yanked");
    assert_eq!(served().await, first["hash"]);
    node.post("/api/v1/packages/p/1:yank", Body::empty()).await.is(200);
    assert_eq!(node.get("/api/v1/task-types").await.json()["items"], json!([]));
}

#[tokio::test]
async fn a_version_is_deleted_when_no_open_task_runs_it() {
    let node = Node::start().await;
    let versions = ["1.0+dev.1", "1.0+dev.2"];
    for (n, version) in versions.iter().enumerate() {
        let content = archive(&[("a.py", &n.to_string())]);
        put(&node, &format!("/api/v1/packages/p/{}", version.replace('+', "%2B")), &content, MANIFEST).await.is(201);
        another_millisecond().await;
    }
    let delete = async |version: &str| {
        let path = format!("/api/v1/packages/p/{}", version.replace('+', "%2B"));
        node.call(Method::DELETE, &path, Body::empty()).await
    };
    let body = format!(r#"{{"type":"extract","package":"p@{}"}}"#, versions[0]);
    let id = node.submit(&body).await;
    let refused = delete(versions[0]).await.is(409);
    assert!(refused.json()["detail"].as_str().unwrap().contains(&id), "{refused:?}");
    node.post(&format!("/api/v1/tasks/{id}:cancel"), "{}").await.is(200);
    let path = format!("/api/v1/packages/p/{}", versions[0].replace('+', "%2B"));
    let tag = node.get(&path).await.header("etag").to_owned();
    let conditional = async |tag: &str| {
        let request = node.request(Method::DELETE, &path, &node.admin).header("if-match", tag);
        node.send(request.body(Body::empty()).unwrap()).await
    };
    node.post(&format!("{path}:yank"), "{}").await.is(200);
    assert_eq!(conditional(&tag).await.is(412).code(), "precondition-failed", "it was yanked meanwhile");
    let tag = node.get(&path).await.header("etag").to_owned();
    conditional(&format!("\"other\", {tag}")).await.is(204);
    delete(versions[0]).await.is(404);
    delete(versions[1]).await.is(204);
    assert_eq!(node.get("/api/v1/packages").await.json()["items"], json!([]));
    assert_eq!(node.get("/api/v1/task-types").await.json()["items"], json!([]), "nothing serves the type any more");
    let gone = tidewheel_api::sweep_blobs(&node.runtime, std::time::Duration::from_secs(1)).await;
    assert!(gone >= 2, "and what they were made of goes: {gone}");
}

#[tokio::test]
async fn unsafe_and_broken_packages_are_refused() {
    let node = Node::start().await;
    let bomb = "0".repeat(64 << 20);
    for (name, bytes) in [
        ("dots", archive(&[("../evil.py", "x")])),
        ("absolute", archive(&[("/etc/cron.d/evil", "x")])),
        ("bomb", archive(&[("bomb", &bomb)])),
        ("no archive", b"hello".to_vec()),
    ] {
        let got = put(&node, "/api/v1/packages/bad/1", &bytes, MANIFEST).await.is(422);
        assert_eq!(got.code(), "invalid-package", "{name}");
    }
    let good = archive(&[("a.py", "")]);
    for manifest in [
        r#"{"format":"tarball"}"#,
        r#"{"format":"folder","entries":[{"name":"","fn":"a:b"}]}"#,
        r#"{"format":"folder","entries":[{"name":"a","fn":"os.system('x')"}]}"#,
        r#"{"format":"folder","entries":[{"name":"a","fn":"a:b","defaults":{"timout":"1s"}}]}"#,
        r#"{"format":"folder","entries":[{"name":"a","fn":"a:b"},{"name":"a","fn":"a:c"}]}"#,
        r#"{"format":"folder","entires":[]}"#,
    ] {
        let got = put(&node, "/api/v1/packages/bad/1", &good, manifest).await.is(400);
        assert_eq!(got.code(), "invalid-field", "{manifest}");
    }
    assert_eq!(put(&node, "/api/v1/packages/..%2f/1", &good, MANIFEST).await.is(400).code(), "invalid-field");
    assert_eq!(node.get("/api/v1/packages").await.is(200).json()["items"], json!([]));
}

#[tokio::test]
async fn the_other_two_forms_of_upload() {
    let node = Node::start().await;
    let inside = archive(&[("tidewheel-manifest.json", MANIFEST), ("a.py", "")]);
    let request =
        node.request(Method::PUT, "/api/v1/packages/raw/1", &node.admin).header("content-type", "application/zip");
    node.send(request.body(Body::from(inside.clone())).unwrap()).await.is(201);
    let request =
        node.request(Method::PUT, "/api/v1/packages/bare/1", &node.admin).header("content-type", "application/zip");
    let got = node.send(request.body(Body::from(archive(&[("a.py", "")]))).unwrap()).await.is(422);
    assert!(got.json()["detail"].as_str().unwrap().contains("manifest"));
    let blob = node.call(Method::PUT, "/api/v1/blobs", inside).await.is(201).json();
    let body = format!(r#"{{"hash":{},"manifest":{MANIFEST}}}"#, blob["hash"]);
    let send = |body: String| {
        let request = node.request(Method::PUT, "/api/v1/packages/named/1", &node.admin);
        node.send(request.header("content-type", "application/json").body(Body::from(body)).unwrap())
    };
    send(body).await.is(201);
    let missing = format!(r#"{{"hash":"sha256:{}","manifest":{MANIFEST}}}"#, "0".repeat(64));
    assert_eq!(send(missing).await.is(404).code(), "not-found");
}

/// An archive of about this size: what is in it does not compress.
fn large_archive(size: usize) -> Vec<u8> {
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    out.start_file("data.bin", stored).unwrap();
    out.write_all(&vec![7; size]).unwrap();
    out.finish().unwrap().into_inner()
}

#[tokio::test]
async fn a_package_of_three_megabytes_is_taken() {
    let node = Node::start().await;
    let bytes = large_archive(3 << 20);
    let package = put(&node, "/api/v1/packages/large/1", &bytes, MANIFEST).await.is(201).json();
    assert_eq!(package["size"], bytes.len());
}

#[tokio::test]
async fn what_is_above_a_bound_is_told_the_bound_and_its_setting() {
    let config = ApiConfig { package_bytes: 100_000, blob_bytes: 150_000, body_bytes: 1_000, ..ApiConfig::default() };
    let node = Node::with(config).await;
    let refused = |got: Got, bound: &str, setting: &str| {
        let got = got.is(413);
        assert_eq!(got.code(), "too-large");
        let detail = got.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(bound) && detail.contains(setting), "{detail}");
        detail
    };
    let over = large_archive(100_000);
    let path = "/api/v1/packages/large/1";
    refused(put(&node, path, &over, MANIFEST).await, "100000 bytes", "server.maxPackageSize");
    // Far above, so that the length alone tells; and without a length.
    refused(put(&node, path, &large_archive(5 << 20), MANIFEST).await, "100000 bytes", "server.maxPackageSize");
    let alone = |body: Body| {
        let request = node.request(Method::PUT, path, &node.admin).header("content-type", "application/zip");
        node.send(request.body(body).unwrap())
    };
    refused(alone(over.clone().into()).await, "100000 bytes", "server.maxPackageSize");
    let chunks = over.chunks(10_000).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>();
    let streamed = Body::from_stream(futures::stream::iter(chunks));
    refused(alone(streamed).await, "100000 bytes", "server.maxPackageSize");
    let blob = node.call(Method::PUT, "/api/v1/blobs", over).await.is(201).json();
    let body = format!(r#"{{"hash":{},"manifest":{MANIFEST}}}"#, blob["hash"]);
    let request = node.request(Method::PUT, path, &node.admin).header("content-type", "application/json");
    let named = node.send(request.body(Body::from(body)).unwrap()).await;
    refused(named, "100000 bytes", "server.maxPackageSize");
    put(&node, path, &large_archive(99_000), MANIFEST).await.is(201);
    let detail =
        refused(node.call(Method::PUT, "/api/v1/blobs", vec![7; 150_001]).await, "150000 bytes", "server.maxBlobSize");
    assert!(!detail.contains("PUT /api/v1/blobs"), "{detail}");
    let task = format!(r#"{{"type":"a","input":"{}"}}"#, "x".repeat(1_000));
    let detail = refused(node.post("/api/v1/tasks", task).await, "1000 bytes", "server.maxBodySize");
    assert!(detail.contains("PUT /api/v1/blobs"), "{detail}");
}

#[tokio::test]
async fn blobs_have_ranges() {
    let node = Node::start().await;
    let blob = node.call(Method::PUT, "/api/v1/blobs", "0123456789").await.is(201).json();
    let path = format!("/api/v1/blobs/{}", blob["hash"].as_str().unwrap());
    let request = node.request(Method::GET, &path, &node.admin).header("range", "bytes=2-4");
    let got = node.send(request.body(Body::empty()).unwrap()).await.is(206);
    assert_eq!((&got.body[..], got.header("content-range")), (&b"234"[..], "bytes 2-4/10"));
    let request = node.request(Method::GET, &path, &node.admin).header("range", "bytes=10-");
    node.send(request.body(Body::empty()).unwrap()).await.is(416);
    let got = node.call(Method::HEAD, &path, Body::empty()).await.is(200);
    assert_eq!((got.header("content-length"), got.body.len()), ("10", 0));
    let unknown = format!("/api/v1/blobs/sha256:{}", "1".repeat(64));
    node.call(Method::HEAD, &unknown, Body::empty()).await.is(404);
    node.call(Method::PUT, &path, "other").await.is(200);
    let wrong = format!("/api/v1/blobs/sha256:{}", "0".repeat(64));
    assert_eq!(node.call(Method::PUT, &wrong, "other").await.is(400).code(), "invalid-field");
}
