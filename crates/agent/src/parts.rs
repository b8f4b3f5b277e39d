//! Archives of packages, put together from parts: those that another archive in the cache has are copied from it, the
//! others are fetched. What is copied is checked part by part. Of what is fetched the whole is hashed while it comes, and
//! parts only where the whole is not what it should be: of a fresh package no more than its edges, which are looked at first,
//! are hashed twice. Where parts stay out, because only files lie in them that are fetched on demand, there is no whole yet,
//! and every part is checked. Nothing gets its name in the cache before one or the other was right.
//!
//! `archives/<digest>/` holds `archive` and `parts`, the list; `cache` removes it when it was not used for long. What is
//! being put together lies in `.part-<digest>/` and is taken up again where a killed agent left it.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tidewheel_proto::v1::Part;

use crate::blobs::Blobs;
use crate::error::Error;
use crate::on_demand::{self, OnDemand, Places};
use crate::tally::Tally;

/// The file of an archive, and that of its list, in its folder.
pub(crate) const ARCHIVE: &str = "archive";
const LIST: &str = "parts";
/// No list of an honest server is longer, and no part larger.
const MAX_PARTS: usize = 65_536;
const MAX_PART: u64 = 4 << 20;
/// A smaller archive is fetched at once: looking at its directory first would cost more than it can save.
const WORTH_LOOKING: u64 = 1 << 20;
/// Read and hashed at once.
const READ: u64 = 256 << 10;

/// Where a part of an archive is: its number, and its place and length in the file.
#[derive(Clone, Copy)]
struct Slot {
    number: u32,
    at: u64,
    size: u64,
}

impl Slot {
    fn range(&self) -> Range<u64> {
        self.at..self.at + self.size
    }
}

/// Where the parts of an archive go, one behind the other.
fn slots(list: &[Part]) -> Vec<Slot> {
    let mut at = 0;
    let slot = |(number, part): (usize, &Part)| {
        let slot = Slot { number: number as u32, at, size: part.size };
        at += part.size;
        slot
    };
    list.iter().enumerate().map(slot).collect()
}

/// Makes `folder` hold the archive of a package.
pub(crate) async fn obtain(blobs: &Blobs, hash: &str, token: Bytes, folder: &Path, tally: &Tally) -> Result<(), Error> {
    let shelf = folder.parent().expect("an archive has a shelf").to_owned();
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let partial = shelf.join(format!(".part-{name}"));
    fs::create_dir_all(&partial).map_err(Error::file("make", &partial))?;
    // Another agent on the same folder may be at it.
    let lock = partial.join("lock");
    let held = tokio::task::spawn_blocking(move || {
        let file = OpenOptions::new().create(true).append(true).open(&lock).map_err(Error::file("write", &lock))?;
        file.lock().map_err(Error::file("lock", &lock))?;
        Ok::<File, Error>(file)
    });
    let _held = held.await.map_err(|_| Error::Package("the package cannot be fetched".into()))??;
    if folder.join(ARCHIVE).is_file() {
        return Ok(());
    }
    fs::create_dir_all(&partial).map_err(Error::file("make", &partial))?;
    let file = partial.join(ARCHIVE);
    match blobs.parts(hash, token.clone()).await? {
        Some(list) => {
            check_list(&list)?;
            put_together(blobs, (hash, token), &list, (&shelf, &file), tally).await?;
            let text = list.iter().map(|part| format!("{} {}\n", part.hash, part.size)).collect::<String>();
            fs::write(partial.join(LIST), text).map_err(Error::file("write in", &partial))?;
        }
        // A server of an earlier version, or one that has it as a whole.
        None => {
            let size = blobs.fetch_file(hash, token, &file).await?;
            tally.bytes(size, 0);
        }
    }
    let _ = fs::remove_file(partial.join("lock"));
    fs::rename(&partial, folder).map_err(Error::file("make", folder))
}

fn check_list(list: &[Part]) -> Result<(), Error> {
    let sound = |part: &Part| crate::blobs::digest_of(&part.hash).is_some() && (1..=MAX_PART).contains(&part.size);
    if list.len() > MAX_PARTS || !list.iter().all(sound) {
        return Err(Error::Package("the server's list of the package's parts cannot be used".into()));
    }
    Ok(())
}

async fn put_together(
    blobs: &Blobs,
    (hash, token): (&str, Bytes),
    list: &[Part],
    (shelf, file): (&Path, &Path),
    tally: &Tally,
) -> Result<(), Error> {
    let (known, path, wanted) = (shelf.to_owned(), file.to_owned(), list.to_vec());
    let (out, missing, reused) = apart(move || plan(&known, &path, &wanted)).await?;
    let mut source = Source { blobs, hash, token, list, out, missing, fetched: 0 };
    let left_out = source.left_out().await?;
    let stays_out = |slot: &Slot| left_out.iter().any(|gap| gap.start <= slot.at && slot.range().end <= gap.end);
    if source.missing.iter().any(stays_out) {
        source.fetch(|slot| !stays_out(slot), None).await?;
        tally.bytes(source.fetched, reused);
        let bytes: u64 = source.missing.iter().map(|slot| slot.size).sum();
        tracing::info!(package = hash, bytes, "parts of files that are fetched on demand stay out");
        return Ok(());
    }
    let mut whole = Whole::default();
    source.fetch(|_| true, Some(&mut whole)).await?;
    let mut found = source.finish(whole).await?;
    if found != hash {
        // Parts that nobody looked at yet may be damaged: those come again, each checked.
        source.find_damaged().await?;
        if !source.missing.is_empty() {
            source.fetch(|_| true, None).await?;
            found = source.finish(Whole::default()).await?;
        }
    }
    tally.bytes(source.fetched, reused);
    if found != hash {
        let _ = fs::remove_file(file);
        return Err(Error::Environment {
            message: format!("{hash} arrived damaged: its hash is {found}"),
            retryable: true,
        });
    }
    Ok(())
}

/// Makes sure that one member of the archive in `folder` is there whole. Nothing is fetched where it is.
pub(crate) async fn complete(
    blobs: &Blobs,
    (hash, token): (&str, Bytes),
    folder: &Path,
    member: &str,
    tally: &Tally,
) -> Result<(), Error> {
    // Without a list the archive came as a whole.
    let Ok(text) = fs::read_to_string(folder.join(LIST)) else { return Ok(()) };
    let list = read_list(&text);
    let (shelf, path) = (folder.parent().expect("an archive has a shelf").to_owned(), folder.join(ARCHIVE));
    let (wanted, name) = (list.clone(), member.to_owned());
    let looked = apart(move || {
        let out = OpenOptions::new().read(true).write(true).open(&path).map_err(Error::file("open", &path))?;
        let size = wanted.iter().map(|part| part.size).sum();
        let places = on_demand::directory(&out, size).and_then(|directory| Places::read(&out, directory));
        let none = || Error::Package(format!("the package has no file {name:?}"));
        let place = places.as_ref().and_then(|places| places.of(&name)).ok_or_else(none)?;
        let of_member = slots(&wanted).into_iter().filter(|slot| overlap(slot, &place)).collect();
        let (missing, reused) = fill(&shelf, &out, &wanted, of_member, u64::MAX)?;
        Ok::<_, Error>((out, missing, reused))
    });
    let (out, missing, reused) = looked.await?;
    let mut source = Source { blobs, hash, token, list: &list, out, missing, fetched: 0 };
    source.fetch(|_| true, None).await?;
    tally.bytes(source.fetched, reused);
    Ok(())
}

fn overlap(slot: &Slot, place: &Range<u64>) -> bool {
    slot.at < place.end && place.start < slot.at + slot.size
}

/// The hash of an archive, taken from its start on while its parts come.
#[derive(Default)]
struct Whole {
    hasher: Sha256,
    /// Bytes that are hashed.
    at: u64,
}

impl Whole {
    /// Takes a part that is about to be written. False where too much lies before it that was there already and is yet to
    /// be hashed: reading it would hold the connection up.
    fn take(&mut self, out: &File, slot: &Slot, part: &[u8]) -> Result<bool, Error> {
        if slot.at < self.at || slot.at - self.at > MAX_PART {
            return Ok(false);
        }
        self.read_to(out, slot.at)?;
        self.hasher.update(part);
        self.at += slot.size;
        Ok(true)
    }

    /// Hashes what the file has up to there.
    fn read_to(&mut self, out: &File, end: u64) -> Result<(), Error> {
        let mut buffer = vec![0; READ.min(end.saturating_sub(self.at)) as usize];
        while self.at < end {
            let piece = &mut buffer[..READ.min(end - self.at) as usize];
            out.read_exact_at(piece, self.at).map_err(Error::io("cannot read a package"))?;
            self.hasher.update(&*piece);
            self.at += piece.len() as u64;
        }
        Ok(())
    }

    fn finish(mut self, out: &File, size: u64) -> Result<String, Error> {
        self.read_to(out, size)?;
        Ok(format!("sha256:{}", hex::encode(self.hasher.finalize())))
    }
}

/// An archive that is being put together.
struct Source<'a> {
    blobs: &'a Blobs,
    hash: &'a str,
    token: Bytes,
    list: &'a [Part],
    out: File,
    /// In rising order.
    missing: Vec<Slot>,
    fetched: u64,
}

impl Source<'_> {
    /// Fetches those of the missing slots. With `whole` they are hashed as a part of it, and the caller looks at the outcome;
    /// otherwise each is checked against its own hash before it is written.
    async fn fetch(&mut self, wanted: impl Fn(&Slot) -> bool, whole: Option<&mut Whole>) -> Result<(), Error> {
        let (now, later): (Vec<Slot>, Vec<Slot>) = self.missing.iter().copied().partition(|slot| wanted(slot));
        let bytes: u64 = now.iter().map(|slot| slot.size).sum();
        fetch(self.blobs, (self.hash, self.token.clone()), self.list, now, (&self.out, whole)).await?;
        self.missing = later;
        self.fetched += bytes;
        Ok(())
    }

    /// The hash of the archive, of which the start is hashed.
    async fn finish(&self, whole: Whole) -> Result<String, Error> {
        let out = self.out.try_clone().map_err(Error::io("cannot read a package"))?;
        let size = self.list.iter().map(|part| part.size).sum();
        apart(move || whole.finish(&out, size)).await
    }

    /// What of the archive is not what the list says is missing.
    async fn find_damaged(&mut self) -> Result<(), Error> {
        let out = self.out.try_clone().map_err(Error::io("cannot read a package"))?;
        let list = self.list.to_vec();
        self.missing = apart(move || Ok(damaged(&out, &list))).await?;
        Ok(())
    }

    /// Where only files lie that are fetched on demand. For that the directory of the archive is fetched first, and the
    /// manifest, which names them; where either is not what it should be, nothing is left out.
    async fn left_out(&mut self) -> Result<Vec<Range<u64>>, Error> {
        let size: u64 = self.list.iter().map(|part| part.size).sum();
        if size < WORTH_LOOKING || self.missing.is_empty() {
            return Ok(Vec::new());
        }
        // The manifest is the first member of every archive that was built with one: its part comes along.
        let end = size - on_demand::END.min(size)..size;
        self.fetch(|slot| slot.at == 0 || overlap(slot, &end), None).await?;
        let Some(directory) = on_demand::directory(&self.out, size) else { return Ok(Vec::new()) };
        self.fetch(|slot| overlap(slot, &directory), None).await?;
        let Some(places) = Places::read(&self.out, directory) else { return Ok(Vec::new()) };
        let Some(manifest) = places.of(crate::project::MANIFEST) else { return Ok(Vec::new()) };
        self.fetch(|slot| overlap(slot, &manifest), None).await?;
        let copy = self.out.try_clone().map_err(Error::io("cannot read a package"))?;
        Ok(places.left_out(&OnDemand::of_archive(copy)))
    }
}

/// Fills the file with what is on this machine; the slots that are not, and the bytes that were.
fn plan(shelf: &Path, path: &Path, list: &[Part]) -> Result<(File, Vec<Slot>, u64), Error> {
    let out = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
    let out = out.map_err(Error::file("write", path))?;
    let had = out.metadata().map_or(0, |m| m.len());
    out.set_len(list.iter().map(|part| part.size).sum()).map_err(Error::file("write", path))?;
    let (missing, reused) = fill(shelf, &out, list, slots(list), had)?;
    Ok((out, missing, reused))
}

/// Of some slots: those that neither the file has, in its first `had` bytes, nor another archive, from which what it has is
/// copied.
fn fill(shelf: &Path, out: &File, list: &[Part], slots: Vec<Slot>, had: u64) -> Result<(Vec<Slot>, u64), Error> {
    let known = known_parts(shelf, list);
    let (mut missing, mut reused, mut buffer) = (Vec::new(), 0, Vec::new());
    for slot in slots {
        let hash = &list[slot.number as usize].hash;
        buffer.resize(slot.size as usize, 0);
        // Left by an agent that was killed, or fetched before.
        if slot.range().end <= had && out.read_exact_at(&mut buffer, slot.at).is_ok() && is(&buffer, hash) {
            continue;
        }
        // One of them may have a hole there.
        let copied = known.get(hash.as_str()).into_iter().flatten().any(|(archive, from)| {
            let read = File::open(archive).and_then(|file| file.read_exact_at(&mut buffer, *from));
            read.is_ok() && is(&buffer, hash)
        });
        if copied {
            out.write_all_at(&buffer, slot.at).map_err(Error::io("cannot write a package"))?;
            reused += slot.size;
        } else {
            missing.push(slot);
        }
    }
    Ok((missing, reused))
}

/// The slots whose content is not that of their parts.
fn damaged(out: &File, list: &[Part]) -> Vec<Slot> {
    let mut buffer = Vec::new();
    let mut is_whole = |slot: &Slot| {
        buffer.resize(slot.size as usize, 0);
        out.read_exact_at(&mut buffer, slot.at).is_ok() && is(&buffer, &list[slot.number as usize].hash)
    };
    slots(list).into_iter().filter(|slot| !is_whole(slot)).collect()
}

/// Runs what reads and hashes much where it holds nobody up.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::Package("the package cannot be put together".into()))?
}

fn is(bytes: &[u8], hash: &str) -> bool {
    crate::blobs::hash_of(bytes) == hash
}

/// Where the archives in the cache have the parts that are wanted.
fn known_parts<'a>(shelf: &Path, list: &'a [Part]) -> HashMap<&'a str, Vec<(PathBuf, u64)>> {
    let wanted: HashMap<&str, u64> = list.iter().map(|part| (part.hash.as_str(), part.size)).collect();
    let mut known: HashMap<&str, Vec<(PathBuf, u64)>> = HashMap::new();
    for entry in fs::read_dir(shelf).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let Ok(text) = fs::read_to_string(entry.path().join(LIST)) else { continue };
        let mut at = 0;
        for part in read_list(&text) {
            if let Some((wanted, _)) =
                wanted.get_key_value(part.hash.as_str()).filter(|(_, bytes)| **bytes == part.size)
            {
                known.entry(*wanted).or_default().push((entry.path().join(ARCHIVE), at));
            }
            at += part.size;
        }
    }
    known
}

/// What a list that was kept says, as far as it can be read.
fn read_list(text: &str) -> Vec<Part> {
    let part = |line: &str| {
        let (hash, size) = line.split_once(' ')?;
        Some(Part { hash: hash.to_owned(), size: size.parse().ok()? })
    };
    text.lines().map_while(part).collect()
}

/// Fetches slots in their order, each written where it belongs when its hash is right or when it was taken into the hash of
/// the whole; goes on behind what came when the connection breaks.
async fn fetch(
    blobs: &Blobs,
    (hash, token): (&str, Bytes),
    list: &[Part],
    missing: Vec<Slot>,
    (out, mut whole): (&File, Option<&mut Whole>),
) -> Result<(), Error> {
    let (mut done, mut buffer) = (0, Vec::new());
    let mut tries = 0;
    while done < missing.len() {
        let before = done;
        let numbers = missing[done..].iter().map(|slot| slot.number).collect();
        buffer.clear();
        let mut sink = |chunk: &[u8]| {
            buffer.extend_from_slice(chunk);
            let mut from = 0;
            while let Some(slot) = missing.get(done).filter(|slot| (buffer.len() - from) as u64 >= slot.size) {
                let part = &buffer[from..from + slot.size as usize];
                let wanted = &list[slot.number as usize].hash;
                let taken = match &mut whole {
                    Some(whole) => whole.take(out, slot, part)?,
                    None => false,
                };
                if !taken && !is(part, wanted) {
                    return Err(Error::Environment { message: format!("{wanted} arrived damaged"), retryable: true });
                }
                out.write_all_at(part, slot.at).map_err(Error::io("cannot write a package"))?;
                (from, done) = (from + part.len(), done + 1);
            }
            buffer.drain(..from);
            Ok(())
        };
        let outcome = blobs.fetch_parts(hash, token.clone(), numbers, &mut sink).await;
        if done == missing.len() {
            break;
        }
        let error = outcome.err().unwrap_or_else(|| Error::Environment {
            message: format!("{hash} ended before it was complete"),
            retryable: true,
        });
        tries = if done > before { 0 } else { tries + 1 };
        if !error.is_retryable() || tries >= crate::blobs::TRIES {
            return Err(error);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100 << tries)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(shelf: &Path, name: &str, parts: &[&[u8]]) -> Vec<Part> {
        let list: Vec<Part> =
            parts.iter().map(|p| Part { hash: crate::blobs::hash_of(p), size: p.len() as u64 }).collect();
        let folder = shelf.join(name);
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join(ARCHIVE), parts.concat()).expect("written");
        let text: String = list.iter().map(|p| format!("{} {}\n", p.hash, p.size)).collect();
        fs::write(folder.join(LIST), text).expect("written");
        list
    }

    #[test]
    fn parts_of_other_archives_are_copied_and_damaged_ones_are_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let shelf = dir.path();
        let mut list = archive(shelf, "old", &[b"first", b"second", b"third"]);
        list[0] = Part { hash: crate::blobs::hash_of(b"other"), size: 5 };
        let (file, missing, reused) = plan(shelf, &shelf.join("new"), &list).expect("planned");
        assert_eq!((missing.len(), missing[0].number, reused), (1, 0, 11));
        file.write_all_at(b"other", 0).expect("written");
        assert_eq!(fs::read(shelf.join("new")).expect("there"), b"othersecondthird");
        // A second look finds everything in place and nothing to do.
        let (_, missing, reused) = plan(shelf, &shelf.join("new"), &list).expect("planned");
        assert_eq!((missing.len(), reused), (0, 0));
        fs::write(shelf.join("old").join(ARCHIVE), b"firstsecondthirX").expect("damaged");
        fs::remove_file(shelf.join("new")).expect("gone");
        let (_, missing, _) = plan(shelf, &shelf.join("new"), &list).expect("planned");
        assert_eq!(missing.iter().map(|s| s.number).collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn the_whole_is_hashed_while_parts_come_between_those_that_are_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let content = b"firstsecondthird";
        let list = archive(dir.path(), "new", &[b"first", b"second", b"third"]);
        let all = slots(&list);
        let path = dir.path().join("new").join(ARCHIVE);
        let out = OpenOptions::new().read(true).write(true).open(&path).expect("there");
        for came in [&[][..], &[1], &[0, 1, 2], &[2]] {
            let mut whole = Whole::default();
            for number in came {
                let slot = &all[*number];
                let part = &content[slot.at as usize..slot.range().end as usize];
                assert!(whole.take(&out, slot, part).expect("read"));
                assert!(!whole.take(&out, slot, part).expect("read"), "it is in the hash already");
            }
            assert_eq!(whole.finish(&out, 16).expect("read"), crate::blobs::hash_of(content), "{came:?}");
        }
        let far = Slot { number: 1, at: MAX_PART + 1, size: 6 };
        assert!(!Whole::default().take(&out, &far, b"second").expect("not read"), "it is checked by itself");
        assert!(damaged(&out, &list).is_empty());
        out.write_all_at(b"X", 6).expect("written");
        assert_eq!(damaged(&out, &list).iter().map(|slot| slot.number).collect::<Vec<_>>(), [1]);
    }
}
