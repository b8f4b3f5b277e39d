//! Archives of packages, put together from parts: those that another archive in the cache has are copied from it, the
//! others are fetched. Every part is checked against its hash, wherever it came from, and the whole against its own when
//! all of it is there: parts in which only files lie that are fetched on demand stay out until one is asked for.
//!
//! `archives/<digest>/` holds `archive` and `parts`, the list; `cache` removes it when it was not used for long. What is
//! being put together lies in `.part-<digest>/` and is taken up again where a killed agent left it.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
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
    let broken = |_| Error::Package("the package cannot be put together".into());
    let (known, path, wanted) = (shelf.to_owned(), file.to_owned(), list.to_vec());
    let planned = tokio::task::spawn_blocking(move || plan(&known, &path, &wanted));
    let (out, missing, reused) = planned.await.map_err(broken)??;
    let mut source = Source { blobs, hash, token, list, out, missing, fetched: 0 };
    let left_out = source.left_out().await?;
    source.fetch(|slot| !left_out.iter().any(|gap| gap.start <= slot.at && slot.range().end <= gap.end)).await?;
    tally.bytes(source.fetched, reused);
    if !source.missing.is_empty() {
        let bytes: u64 = source.missing.iter().map(|slot| slot.size).sum();
        tracing::info!(package = hash, bytes, "parts of files that are fetched on demand stay out");
        return Ok(());
    }
    let path = file.to_owned();
    let (found, _) = crate::blobs::hash_file(&path).await.map_err(Error::file("read", &path))?;
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
    let looked = tokio::task::spawn_blocking(move || {
        let out = OpenOptions::new().read(true).write(true).open(&path).map_err(Error::file("open", &path))?;
        let size = wanted.iter().map(|part| part.size).sum();
        let places = on_demand::directory(&out, size).and_then(|directory| Places::read(&out, directory));
        let none = || Error::Package(format!("the package has no file {name:?}"));
        let place = places.as_ref().and_then(|places| places.of(&name)).ok_or_else(none)?;
        let of_member = slots(&wanted).into_iter().filter(|slot| overlap(slot, &place)).collect();
        let (missing, reused) = fill(&shelf, &out, &wanted, of_member, u64::MAX)?;
        Ok::<_, Error>((out, missing, reused))
    });
    let broken = |_| Error::Package("the package cannot be put together".into());
    let (out, missing, reused) = looked.await.map_err(broken)??;
    let mut source = Source { blobs, hash, token, list: &list, out, missing, fetched: 0 };
    source.fetch(|_| true).await?;
    tally.bytes(source.fetched, reused);
    Ok(())
}

fn overlap(slot: &Slot, place: &Range<u64>) -> bool {
    slot.at < place.end && place.start < slot.at + slot.size
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
    /// Fetches those of the missing slots.
    async fn fetch(&mut self, wanted: impl Fn(&Slot) -> bool) -> Result<(), Error> {
        let (now, later): (Vec<Slot>, Vec<Slot>) = self.missing.iter().copied().partition(|slot| wanted(slot));
        let bytes: u64 = now.iter().map(|slot| slot.size).sum();
        fetch(self.blobs, (self.hash, self.token.clone()), self.list, now, &self.out).await?;
        self.missing = later;
        self.fetched += bytes;
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
        self.fetch(|slot| slot.at == 0 || overlap(slot, &end)).await?;
        let Some(directory) = on_demand::directory(&self.out, size) else { return Ok(Vec::new()) };
        self.fetch(|slot| overlap(slot, &directory)).await?;
        let Some(places) = Places::read(&self.out, directory) else { return Ok(Vec::new()) };
        let Some(manifest) = places.of(crate::project::MANIFEST) else { return Ok(Vec::new()) };
        self.fetch(|slot| overlap(slot, &manifest)).await?;
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

/// Fetches slots in their order, each written where it belongs when its hash is right; goes on behind what came when the
/// connection breaks.
async fn fetch(
    blobs: &Blobs,
    (hash, token): (&str, Bytes),
    list: &[Part],
    missing: Vec<Slot>,
    out: &File,
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
                if !is(part, wanted) {
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
}
