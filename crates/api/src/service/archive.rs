//! The safety check of an uploaded archive, before anything of it is kept: no member may leave the folder it is
//! unpacked into, none may be a link or device, and unpacking may not cost more than its bounds. Sizes are counted
//! while reading, never believed from a header.

use std::io::Read;

use serde_json::json;
use tidewheel_proto::MANIFEST_FILE;
use tidewheel_proto::code::Code;

use super::blob::ReadSeek;
use crate::problem::Failure;

/// Members of an archive. A large package with its vendored wheels has some ten thousand.
const MAX_MEMBERS: usize = 50_000;
/// Bytes of an archive when unpacked.
const MAX_UNPACKED: u64 = 2 << 30;
/// Unpacked bytes per packed byte, once the archive unpacks to more than [`RATIO_FLOOR`]: source code packs up to about
/// 1:20, a bomb 1:1,000.
const MAX_RATIO: u64 = 100;
const RATIO_FLOOR: u64 = 16 << 20;
/// Longest path of a member.
const MAX_PATH: usize = 512;
/// Longest name of a file or folder: what the file systems of agents take.
const MAX_NAME: usize = 255;
/// Bytes of the manifest that may lie in an archive.
const MAX_MANIFEST: u64 = 4 << 20;

/// What was found.
#[derive(Clone, Debug)]
pub(crate) struct Analysis {
    pub(crate) members: usize,
    pub(crate) unpacked: u64,
    pub(crate) kind: Kind,
    /// `tidewheel-manifest.json` at the root or in the one top folder, if there is one.
    pub(crate) manifest: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Zip,
    TarGz,
}

impl Analysis {
    pub(crate) fn shown(&self, packed: u64) -> serde_json::Value {
        let kind = match self.kind {
            Kind::Zip => "zip",
            Kind::TarGz => "tar.gz",
        };
        json!({
            "archive": kind,
            "members": self.members,
            "packed_bytes": packed,
            "unpacked_bytes": self.unpacked,
            "findings": [],
        })
    }
}

/// Checks an archive of `packed` bytes. Blocks; runs on a thread that may.
pub(crate) fn analyse(mut reader: Box<dyn ReadSeek + Send>, packed: u64) -> Result<Analysis, Failure> {
    let mut magic = [0u8; 4];
    let got = read_up_to(&mut reader, &mut magic)?;
    reader.rewind().map_err(unreadable)?;
    let counter = Counter { members: 0, unpacked: 0, packed, places: Vec::new() };
    match &magic[..got] {
        [b'P', b'K', 3 | 5, 4 | 6] => zip_members(reader, counter),
        [0x1F, 0x8B, ..] => tar_members(reader, counter),
        _ => Err(invalid("The content is neither a zip (wheel, folder) nor a tar.gz (sdist) archive.")),
    }
}

struct Counter {
    members: usize,
    unpacked: u64,
    packed: u64,
    places: Vec<Place>,
}

/// Where a member lies once it is unpacked. What lies in a folder follows it in order at once.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// The names from the top; a zero between them, which no name holds, stands before every other byte.
    path: String,
    is_folder: bool,
}

impl Counter {
    fn member(&mut self, path: &str, is_folder: bool) -> Result<(), Failure> {
        self.members += 1;
        if self.members > MAX_MEMBERS {
            return Err(invalid(format!("The archive has more than {MAX_MEMBERS} members.")));
        }
        check_path(path)?;
        let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
        if names.is_empty() && !is_folder {
            return Err(invalid(format!("The member '{}' has no name.", shown(path))));
        }
        self.places.push(Place { path: names.join("\0"), is_folder });
        Ok(())
    }

    /// Refuses members of which one stands where another has to be.
    fn check_places(&mut self) -> Result<(), Failure> {
        self.places.sort_unstable();
        for pair in self.places.windows(2).filter(|pair| !pair[0].is_folder) {
            let (file, next) = (&pair[0], &pair[1]);
            let Some(rest) = next.path.strip_prefix(&file.path) else { continue };
            let name = shown(&file.path.replace('\0', "/"));
            if rest.is_empty() && !next.is_folder {
                return Err(invalid(format!("The member '{name}' is there twice.")));
            }
            if rest.is_empty() || rest.starts_with('\0') {
                return Err(invalid(format!("The member '{name}' is there as a file and as a folder.")));
            }
        }
        Ok(())
    }

    fn bytes(&mut self, more: u64) -> Result<(), Failure> {
        self.unpacked += more;
        if self.unpacked > MAX_UNPACKED {
            return Err(invalid(format!("The archive unpacks to more than {MAX_UNPACKED} bytes.")));
        }
        if self.unpacked > RATIO_FLOOR && self.unpacked / self.packed.max(1) > MAX_RATIO {
            return Err(invalid(format!("The archive unpacks to more than {MAX_RATIO} times its size.")));
        }
        Ok(())
    }

    /// Reads a member to its end, counting; keeps its content if asked to.
    fn drain(&mut self, mut member: impl Read, keep: bool) -> Result<Option<Vec<u8>>, Failure> {
        let mut buffer = [0u8; 64 * 1024];
        let mut kept = Vec::new();
        loop {
            let got = member.read(&mut buffer).map_err(unreadable)?;
            if got == 0 {
                return Ok(keep.then_some(kept));
            }
            self.bytes(got as u64)?;
            if keep {
                if kept.len() as u64 + got as u64 > MAX_MANIFEST {
                    return Err(invalid(format!("The manifest is larger than {MAX_MANIFEST} bytes.")));
                }
                kept.extend_from_slice(&buffer[..got]);
            }
        }
    }
}

fn zip_members(reader: Box<dyn ReadSeek + Send>, mut counter: Counter) -> Result<Analysis, Failure> {
    let mut archive =
        zip::ZipArchive::new(reader).map_err(|e| invalid(format!("The zip archive cannot be read: {e}.")))?;
    if archive.len() > MAX_MEMBERS {
        return Err(invalid(format!("The archive has more than {MAX_MEMBERS} members.")));
    }
    let mut manifest = None;
    for index in 0..archive.len() {
        let member = archive.by_index(index).map_err(|e| invalid(format!("Member {index} cannot be read: {e}.")))?;
        let path = std::str::from_utf8(member.name_raw()).map_err(|_| invalid("The name of a member is not UTF-8."))?;
        let path = path.to_owned();
        counter.member(&path, member.is_dir())?;
        // The upper half of the mode is the file type; zero where the packer was not a Unix.
        let file_type = member.unix_mode().unwrap_or(0) & 0o170_000;
        if member.is_symlink() || !matches!(file_type, 0 | 0o100_000 | 0o040_000) {
            return Err(invalid(format!(
                "The member '{}' is a link or device; only files and folders are taken.",
                shown(&path)
            )));
        }
        if member.encrypted() {
            return Err(invalid(format!("The member '{}' is encrypted.", shown(&path))));
        }
        let keep = is_manifest(&path);
        if let Some(content) = counter.drain(member, keep)? {
            manifest.get_or_insert(content);
        }
    }
    counter.check_places()?;
    Ok(Analysis { members: counter.members, unpacked: counter.unpacked, kind: Kind::Zip, manifest })
}

fn tar_members(reader: Box<dyn ReadSeek + Send>, mut counter: Counter) -> Result<Analysis, Failure> {
    let inner = flate2::read::MultiGzDecoder::new(reader);
    // The limit stands below the tar reader, because it skips padding and long headers by itself.
    let mut archive = tar::Archive::new(inner.take(MAX_UNPACKED + (1 << 20)));
    let mut manifest = None;
    let entries = archive.entries().map_err(unreadable)?;
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let raw = entry.path_bytes().into_owned();
        let path = String::from_utf8(raw).map_err(|_| invalid("The name of a member is not UTF-8."))?;
        let kind = entry.header().entry_type();
        // Headers for all members carry no content of their own.
        if kind.is_pax_global_extensions() {
            continue;
        }
        counter.member(&path, kind.is_dir())?;
        if !(kind.is_file() || kind.is_dir() || kind.is_contiguous()) {
            return Err(invalid(format!(
                "The member '{}' is a link or device; only files and folders are taken.",
                shown(&path)
            )));
        }
        let keep = kind.is_file() && is_manifest(&path);
        if let Some(content) = counter.drain(entry, keep)? {
            manifest.get_or_insert(content);
        }
    }
    counter.check_places()?;
    Ok(Analysis { members: counter.members, unpacked: counter.unpacked, kind: Kind::TarGz, manifest })
}

/// A path that stays below the folder it is unpacked into, on every operating system.
fn check_path(path: &str) -> Result<(), Failure> {
    let refuse = |why: &str| Err(invalid(format!("The member '{}' {why}.", shown(path))));
    if path.is_empty() || path.len() > MAX_PATH {
        return refuse("has no name or too long a one");
    }
    if path.bytes().any(|b| b == 0 || b.is_ascii_control()) {
        return refuse("has control characters in its name");
    }
    if path.starts_with('/') || path.contains('\\') {
        return refuse("has an absolute path or a backslash");
    }
    // `C:x` names a drive on Windows.
    if path.as_bytes().get(1) == Some(&b':') {
        return refuse("names a drive");
    }
    if path.split('/').any(|part| part == "..") {
        return refuse("would leave its folder by '..'");
    }
    if path.split('/').any(|part| part.len() > MAX_NAME) {
        return refuse(&format!("has a name of more than {MAX_NAME} bytes in its path"));
    }
    Ok(())
}

fn is_manifest(path: &str) -> bool {
    let path = path.trim_start_matches("./");
    path == MANIFEST_FILE || path.split_once('/').is_some_and(|(_, rest)| rest == MANIFEST_FILE)
}

fn read_up_to(reader: &mut dyn ReadSeek, out: &mut [u8]) -> Result<usize, Failure> {
    let mut got = 0;
    while got < out.len() {
        match reader.read(&mut out[got..]).map_err(unreadable)? {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}

fn invalid(detail: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidPackage, detail)
}

fn unreadable(error: std::io::Error) -> Failure {
    invalid(format!("The archive is damaged: {error}."))
}

fn shown(path: &str) -> String {
    path.chars().take(80).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Write as _};
    use zip::write::SimpleFileOptions;

    fn check(bytes: Vec<u8>) -> Result<Analysis, String> {
        let size = bytes.len() as u64;
        analyse(Box::new(Cursor::new(bytes)), size).map_err(|f| {
            assert_eq!(f.code(), Code::InvalidPackage);
            f.0.detail.clone()
        })
    }

    fn zip_of(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in members {
            out.start_file(*name, SimpleFileOptions::default()).unwrap();
            out.write_all(content).unwrap();
        }
        out.finish().unwrap().into_inner()
    }

    fn tar_of(build: impl FnOnce(&mut tar::Builder<flate2::write::GzEncoder<Vec<u8>>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best()));
        build(&mut builder);
        builder.into_inner().unwrap().finish().unwrap()
    }

    /// A header whose name was not checked by the library that writes it.
    fn raw_header(name: &str, size: u64, kind: tar::EntryType) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(size);
        header.set_mode(0o644);
        header.set_entry_type(kind);
        header.set_cksum();
        header
    }

    #[test]
    fn good_archives_pass_and_show_their_manifest() {
        let found = check(zip_of(&[("pkg/a.py", b"x = 1"), ("tidewheel-manifest.json", b"{}")])).unwrap();
        assert_eq!((found.members, found.unpacked, found.kind), (2, 7, Kind::Zip));
        assert_eq!(found.manifest.as_deref(), Some(&b"{}"[..]));
        let bytes = tar_of(|t| {
            t.append_data(
                &mut raw_header("p-1/tidewheel-manifest.json", 2, tar::EntryType::Regular),
                "p-1/tidewheel-manifest.json",
                &b"{}"[..],
            )
            .unwrap();
        });
        let found = check(bytes).unwrap();
        assert_eq!((found.members, found.kind), (1, Kind::TarGz));
        assert!(found.manifest.is_some());
    }

    #[test]
    fn members_that_leave_their_folder_are_refused() {
        for name in ["../evil.py", "a/../../evil.py", "/etc/passwd", "a\\..\\b", "C:evil", "a/\u{1}b"] {
            assert!(check(zip_of(&[(name, b"x")])).is_err(), "zip {name}");
            let bytes = tar_of(|t| t.append(&raw_header(name, 1, tar::EntryType::Regular), &b"x"[..]).unwrap());
            assert!(check(bytes).is_err(), "tar {name}");
        }
    }

    #[test]
    fn links_and_devices_are_refused() {
        let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
        out.add_symlink("link", "/etc/passwd", SimpleFileOptions::default()).unwrap();
        assert!(check(out.finish().unwrap().into_inner()).unwrap_err().contains("link or device"));
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Char, tar::EntryType::Fifo] {
            let bytes = tar_of(|t| {
                let mut header = raw_header("link", 0, kind);
                header.set_link_name("/etc/passwd").unwrap();
                header.set_cksum();
                t.append(&header, std::io::empty()).unwrap();
            });
            assert!(check(bytes).unwrap_err().contains("link or device"), "{kind:?}");
        }
    }

    #[test]
    fn bombs_are_refused_before_they_are_unpacked() {
        let zeros = vec![0u8; 64 << 20];
        assert!(check(zip_of(&[("bomb", &zeros)])).unwrap_err().contains("times its size"));
        let bytes = tar_of(|t| {
            let header = raw_header("bomb", zeros.len() as u64, tar::EntryType::Regular);
            t.append(&header, &zeros[..]).unwrap();
        });
        assert!(check(bytes).unwrap_err().contains("times its size"));
    }

    #[test]
    fn members_that_cannot_be_unpacked_beside_each_other_are_refused() {
        let both = [vec!["x", "x/y"], vec!["x/y", "x"], vec!["x/", "x"], vec!["x/y/z", "a", "./x"], vec!["x", "./x"]];
        for names in both {
            let members: Vec<_> = names.iter().map(|name| (*name, &b"1"[..])).collect();
            let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
            for name in &names {
                match name.strip_suffix('/') {
                    Some(folder) => zip.add_directory(folder, SimpleFileOptions::default()).unwrap(),
                    None => zip.start_file(*name, SimpleFileOptions::default()).unwrap(),
                }
            }
            let told = check(zip.finish().unwrap().into_inner()).unwrap_err();
            assert!(told.contains("'x'"), "zip {names:?}: {told}");
            let bytes = tar_of(|t| {
                for (name, content) in &members {
                    let (kind, content) = match name.ends_with('/') {
                        true => (tar::EntryType::Directory, &b""[..]),
                        false => (tar::EntryType::Regular, *content),
                    };
                    t.append(&raw_header(name, content.len() as u64, kind), content).unwrap();
                }
            });
            let told = check(bytes).unwrap_err();
            assert!(told.contains("'x'"), "tar {names:?}: {told}");
        }
        // The same file twice, which a zip cannot say.
        let bytes = tar_of(|t| {
            for _ in 0..2 {
                t.append(&raw_header("x", 1, tar::EntryType::Regular), &b"1"[..]).unwrap();
            }
        });
        assert!(check(bytes).unwrap_err().contains("'x' is there twice"));
        for nothing in ["./", "."] {
            let bytes = tar_of(|t| t.append(&raw_header(nothing, 1, tar::EntryType::Regular), &b"1"[..]).unwrap());
            assert!(check(bytes).unwrap_err().contains("has no name"), "{nothing}");
        }
        // What looks alike and is no clash.
        assert!(check(zip_of(&[("x.py", b""), ("x/y", b""), ("x/y.py", b""), ("x-y", b""), ("x!", b"")])).is_ok());
        let bytes = tar_of(|t| {
            for folder in ["./", "./x/", "x/"] {
                t.append(&raw_header(folder, 0, tar::EntryType::Directory), &b""[..]).unwrap();
            }
            t.append(&raw_header("x/y", 1, tar::EntryType::Regular), &b"1"[..]).unwrap();
        });
        assert_eq!(check(bytes).unwrap().members, 4);
    }

    #[test]
    fn names_that_no_file_can_have_are_refused() {
        for name in ["a".repeat(256), format!("pkg/{}/b.py", "\u{e9}".repeat(128))] {
            let told = check(zip_of(&[(&name, b"x")])).unwrap_err();
            let shown: String = name.chars().take(20).flat_map(char::escape_default).collect();
            assert!(told.contains("255 bytes") && told.contains(&shown), "{told}");
        }
        assert!(check(zip_of(&[(&"a".repeat(255), b"x")])).is_ok());
    }

    #[test]
    fn too_many_members_are_refused() {
        let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for i in 0..=MAX_MEMBERS {
            out.start_file(format!("{i}"), SimpleFileOptions::default()).unwrap();
        }
        assert!(check(out.finish().unwrap().into_inner()).unwrap_err().contains("members"));
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let mut cut = zip_of(&[("a", b"x")]);
        cut.truncate(cut.len() / 2);
        for bytes in [Vec::new(), b"hello".to_vec(), b"PK\x03\x04garbage".to_vec(), vec![0x1F, 0x8B, 1, 2], cut] {
            assert!(check(bytes).is_err());
        }
    }
}
