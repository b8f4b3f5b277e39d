//! Logs and blobs in memory, until their stores are there.

use std::collections::HashMap;
use std::sync::Mutex;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tidewheel_store::blob::{Blobs, Pending};
use tidewheel_store::log::{Line, LogPage, LogQuery, LogStore};
use tidewheel_store::{Error, Hash};

#[derive(Default)]
pub(crate) struct MemoryLogs(Mutex<Vec<Line>>);

impl LogStore for MemoryLogs {
    fn append(&self, lines: Vec<Line>) -> Result<(), Error> {
        self.0.lock().map_err(|_| Error::Closed)?.extend(lines);
        Ok(())
    }

    fn query(&self, query: &LogQuery) -> Result<LogPage, Error> {
        let lines = self.0.lock().map_err(|_| Error::Closed)?;
        let rows = lines.iter().enumerate().map(|(i, l)| (i as u64 + 1, l.clone()));
        let found = rows.filter(|(row, l)| {
            l.tenant == query.tenant && query.task.is_none_or(|t| t == l.task) && query.cursor.is_none_or(|c| *row > c)
        });
        Ok(found.take(query.limit).collect())
    }

    fn sweep(&self, _: u64, _: usize) -> Result<u64, Error> {
        Ok(0)
    }
}

#[derive(Default)]
pub(crate) struct MemoryBlobs(Mutex<HashMap<Hash, Bytes>>);

impl MemoryBlobs {
    fn get(&self, hash: &Hash) -> Option<Bytes> {
        self.0.lock().ok()?.get(hash).cloned()
    }

    fn keep(&self, bytes: Bytes) -> Result<Hash, Error> {
        let hash: Hash = Sha256::digest(&bytes).into();
        self.0.lock().map_err(|_| Error::Closed)?.insert(hash, bytes);
        Ok(hash)
    }
}

impl Blobs for MemoryBlobs {
    fn put(&self, _: u32, bytes: Bytes) -> Pending<'_, Hash> {
        Box::pin(async move { self.keep(bytes) })
    }

    fn put_file<'a>(&'a self, _: u32, path: &'a std::path::Path) -> Pending<'a, (Hash, u64)> {
        Box::pin(async move {
            let bytes = std::fs::read(path).map_err(|e| Error::Failed(e.to_string()))?;
            let size = bytes.len() as u64;
            Ok((self.keep(bytes.into())?, size))
        })
    }

    fn size(&self, _: u32, hash: Hash) -> Pending<'_, Option<u64>> {
        Box::pin(async move { Ok(self.get(&hash).map(|b| b.len() as u64)) })
    }

    fn read(&self, _: u32, hash: Hash, offset: u64, limit: u64) -> Pending<'_, Bytes> {
        Box::pin(async move {
            let bytes = self.get(&hash).ok_or_else(|| Error::Failed("no such blob".to_owned()))?;
            let from = (offset as usize).min(bytes.len());
            Ok(bytes.slice(from..(from + limit as usize).min(bytes.len())))
        })
    }

    fn sweep<'a>(&'a self, _: u32, _: &'a (dyn Fn(&Hash) -> bool + Send + Sync)) -> Pending<'a, u64> {
        Box::pin(async { Ok(0) })
    }
}
