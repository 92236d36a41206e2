//! The sector records in the key-value bucket: one entry a sector, changed by compare-and-set only.

use std::sync::Arc;

use sealfarm_common::sector::SectorNumber;
use sealfarm_nats::bus::{Bus, BusError};
use sealfarm_nats::wire::{self, WireError};

use crate::sector::SectorRecord;

/// Why a record was not stored or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordsError {
    /// The bucket cannot be reached, or refuses.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The record has no place in a message.
    #[error("the record of sector {number} cannot be written: {source}")]
    Encode {
        /// Whose record.
        number: SectorNumber,
        /// What is wrong.
        source: WireError,
    },
    /// What is stored is no record of this version.
    #[error("the entry {key} of bucket {bucket} cannot be read: {source}")]
    Decode {
        /// The bucket.
        bucket: String,
        /// The entry.
        key: String,
        /// What is wrong.
        source: WireError,
    },
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored {
    /// It is there, at this revision.
    At(u64),
    /// Somebody else's value is there instead.
    Overtaken,
}

/// The records of one miner.
#[derive(Clone)]
pub struct Records {
    bus: Arc<dyn Bus>,
    bucket: String,
}

impl Records {
    /// Those in `bucket`.
    pub fn new(bus: Arc<dyn Bus>, bucket: String) -> Self {
        Self { bus, bucket }
    }

    /// All of them, with their revisions. An entry that cannot be read is logged and left alone; its
    /// number stays taken.
    ///
    /// # Errors
    /// When the bucket cannot be read.
    pub async fn load(&self) -> Result<Vec<(SectorRecord, u64)>, RecordsError> {
        let mut records = Vec::new();
        for entry in self.bus.entries(&self.bucket).await? {
            match wire::decode::<SectorRecord>(&entry.value) {
                Ok(record) => records.push((record, entry.revision)),
                Err(error) => {
                    tracing::error!(bucket = self.bucket, key = entry.key, %error, "sector record left alone");
                }
            }
        }
        Ok(records)
    }

    /// One of them, as it stands now.
    ///
    /// # Errors
    /// When the bucket cannot be read, or the entry is no record.
    pub async fn read(&self, number: SectorNumber) -> Result<Option<(SectorRecord, u64)>, RecordsError> {
        let key = number.to_string();
        let Some(entry) = self.bus.entry(&self.bucket, &key).await? else { return Ok(None) };
        let record = wire::decode(&entry.value).map_err(|source| RecordsError::Decode {
            bucket: self.bucket.clone(),
            key,
            source,
        })?;
        Ok(Some((record, entry.revision)))
    }

    /// Stores a record over the one at `expected`; 0 creates it, and so reserves its number.
    ///
    /// A write whose answer was lost is recognised by its value when it is repeated.
    ///
    /// # Errors
    /// When the bucket does not answer; the write may have happened: repeat it.
    pub async fn put(&self, record: &SectorRecord, expected: u64) -> Result<Stored, RecordsError> {
        let number = record.number;
        let key = number.to_string();
        let value = wire::encode(record).map_err(|source| RecordsError::Encode { number, source })?;
        match self.bus.put_entry(&self.bucket, &key, value.clone(), expected).await {
            Ok(revision) => Ok(Stored::At(revision)),
            Err(BusError::Conflict { .. }) => match self.bus.entry(&self.bucket, &key).await? {
                Some(entry) if entry.value == value => Ok(Stored::At(entry.revision)),
                _ => Ok(Stored::Overtaken),
            },
            Err(error) => Err(error.into()),
        }
    }
}
