//! Package archives that are bombs, that leave their folder, that are not what they say.

use std::io::{Cursor, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::Method;
use serde_json::json;
use tidewheel_e2e::rest::JSON;
use tidewheel_e2e::server::Server;
use tidewheel_e2e::{gate, need_binary};
use zip::write::SimpleFileOptions;

use super::problem;

/// The manifest that may lie in an archive.
const MANIFEST: &str = "tidewheel-manifest.json";

/// A folder package as a zip with these members and a manifest.
fn zip_of(members: &[(&str, &[u8])]) -> anyhow::Result<Vec<u8>> {
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in members {
        out.start_file(*name, SimpleFileOptions::default())?;
        out.write_all(content)?;
    }
    Ok(out.finish()?.into_inner())
}

fn manifest() -> Vec<u8> {
    json!({ "format": "folder", "entries": [{ "name": "a", "fn": "m:a" }] }).to_string().into_bytes()
}

fn zip_with(name: &str) -> anyhow::Result<Vec<u8>> {
    zip_of(&[(MANIFEST, &manifest()), ("m.py", b"def a(): pass\n"), (name, b"x")])
}

/// A tar.gz with one member of this type and, where it is a link, this target. Names are written as they are.
fn tar_with(name: &[u8], kind: tar::EntryType, target: &str) -> anyhow::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let text = manifest();
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append_data(&mut header, MANIFEST, text.as_slice())?;
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(0o644);
    if !target.is_empty() {
        header.set_link_name_literal(target)?;
    }
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    tar.append(&header, std::io::empty())?;
    Ok(tar.into_inner()?.finish()?)
}

/// A zip whose one member unpacks to far more than it is.
fn bomb(bytes: usize) -> anyhow::Result<Vec<u8>> {
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    out.start_file(MANIFEST, SimpleFileOptions::default())?;
    out.write_all(&manifest())?;
    out.start_file("bomb", SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated))?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        out.write_all(&zeros)?;
    }
    Ok(out.finish()?.into_inner())
}

fn symlink() -> anyhow::Result<Vec<u8>> {
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    out.start_file(MANIFEST, SimpleFileOptions::default())?;
    out.write_all(&manifest())?;
    out.add_symlink("link", "/etc/passwd", SimpleFileOptions::default())?;
    Ok(out.finish()?.into_inner())
}

fn many_members() -> anyhow::Result<Vec<u8>> {
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for i in 0..60_000 {
        out.start_file(format!("{i}"), SimpleFileOptions::default())?;
    }
    Ok(out.finish()?.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_archives_are_refused_with_the_reason() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    let sound = zip_with("readme.txt")?;
    let mut cut = sound.clone();
    cut.truncate(sound.len() / 2);
    use tar::EntryType as Kind;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("noise", vec![7; 1_000]),
        ("half a zip", cut),
        ("a zip without a manifest", zip_of(&[("m.py", b"x = 1\n")])?),
        ("a manifest that is no JSON", zip_of(&[(MANIFEST, b"{")])?),
        ("a member above the folder", zip_with("../evil.py")?),
        ("a member above, further in", zip_with("a/b/../../../evil.py")?),
        ("a member with an absolute path", zip_with("/etc/cron.d/evil")?),
        ("a member with backslashes", zip_with("..\\evil.py")?),
        ("a member with a drive", zip_with("C:\\evil.py")?),
        ("a symlink", symlink()?),
        ("a bomb of 300 MB", bomb(300 << 20)?),
        ("60,000 members", many_members()?),
        ("a tar member above the folder", tar_with(b"../evil.py", Kind::Regular, "")?),
        ("a tar member with an absolute path", tar_with(b"/evil.py", Kind::Regular, "")?),
        ("a tar symlink", tar_with(b"link", Kind::Symlink, "/etc/passwd")?),
        ("a tar hard link", tar_with(b"link", Kind::Link, "/etc/passwd")?),
        ("a tar device", tar_with(b"dev", Kind::Char, "")?),
        ("a tar pipe", tar_with(b"pipe", Kind::Fifo, "")?),
    ];
    for (what, archive) in cases {
        let body = Some(Bytes::from(archive));
        let answer = rest.send(Method::PUT, "/api/packages/evil/1.0", &[], body).await?;
        let refused = matches!(answer.status, 400 | 413 | 422);
        anyhow::ensure!(refused, "{what}: {} {}", answer.status, answer.shown());
        problem(what, &answer, answer.status, &answer.code())?;
    }
    anyhow::ensure!(rest.get("/api/packages/evil/1.0").await?.status == 404, "a refused package is there");
    let leftovers = std::fs::read_dir(&server.data)?.flatten().map(|e| e.file_name()).collect::<Vec<_>>();
    anyhow::ensure!(!leftovers.iter().any(|n| n.to_string_lossy().contains("evil")), "{leftovers:?}");
    // A sound one is taken, its version is immutable, and bad entries are named.
    let put = |version: &'static str, body: Vec<u8>| rest.send(Method::PUT, version, &[], Some(body.into()));
    let sound_answer = put("/api/packages/good/1.0", sound.clone()).await?;
    anyhow::ensure!(sound_answer.status == 201, "{} {}", sound_answer.status, sound_answer.shown());
    anyhow::ensure!(put("/api/packages/good/1.0", sound).await?.status == 200, "the same content again");
    let other = put("/api/packages/good/1.0", zip_with("other.txt")?).await?;
    problem("other content under one version", &other, 409, "conflict")?;
    for function in ["os.system('x')", "m:", "m:a:b", "../m:a", ""] {
        let text = json!({ "format": "folder", "entries": [{ "name": "a", "fn": function }] }).to_string();
        let archive = zip_of(&[(MANIFEST, text.as_bytes()), ("m.py", b"")])?;
        let answer = put("/api/packages/evil/2.0", archive).await?;
        anyhow::ensure!(matches!(answer.status, 400 | 422), "fn '{function}': {} {}", answer.status, answer.shown());
    }
    for path in ["/api/packages/..%2fevil/1.0", "/api/packages/good/..%2f1.0", "/api/packages/a%00b/1.0"] {
        let answer = put(path, zip_with("x")?).await?;
        anyhow::ensure!(matches!(answer.status, 400 | 404), "{path}: {} {}", answer.status, answer.shown());
    }
    let hash = format!("sha256:{}", "0".repeat(64));
    let absent = json!({ "hash": hash, "manifest": { "format": "folder", "entries": [] } }).to_string();
    let answer = rest.send(Method::PUT, "/api/packages/evil/3.0", &[JSON], Some(absent.into())).await?;
    problem("a blob that is not there", &answer, 404, "not-found")?;
    for hash in ["..%2f..%2fetc%2fpasswd", "sha256:zz", "sha256:", "md5:0"] {
        let answer = rest.get(&format!("/api/blobs/{hash}")).await?;
        anyhow::ensure!(matches!(answer.status, 400 | 404), "blob {hash}: {} {}", answer.status, answer.shown());
    }
    server.still_serves().await
}
