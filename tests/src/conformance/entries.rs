//! Entries of a bucket, changed by compare-and-set.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use sealfarm_nats::bus::BusError;
use sealfarm_nats::streams::BucketSpec;

use super::Bench;

impl Bench {
    async fn bucket(&self) -> Result<String> {
        let name = format!("{}-bucket", self.name);
        let spec =
            BucketSpec { name: name.clone(), description: "conformance", history: 16, bytes_max: 1 << 20 };
        self.bus.ensure_bucket(&spec).await?;
        Ok(name)
    }
}

pub(super) async fn an_entry_changes_by_compare_and_set(b: Bench) -> Result<()> {
    let bucket = b.bucket().await?;
    let put = async |value: &'static str, expected| {
        b.bus.put_entry(&bucket, "42", Bytes::from_static(value.as_bytes()), expected).await
    };
    let conflict = |found: Result<u64, BusError>, wanted: u64| match found {
        Err(BusError::Conflict { expected, .. }) if expected == wanted => Ok(()),
        other => bail!("a put at {wanted} answered {other:?}"),
    };
    ensure!(b.bus.entry(&bucket, "42").await?.is_none());
    conflict(put("x", 7).await, 7)?;
    let first = put("one", 0).await?;
    conflict(put("x", 0).await, 0)?;
    conflict(put("x", first + 1).await, first + 1)?;
    let second = put("two", first).await?;
    ensure!(second > first, "revisions grow: {first}, {second}");
    conflict(put("x", first).await, first)?;
    let entry = b.bus.entry(&bucket, "42").await?.context("no entry")?;
    ensure!((entry.key.as_str(), &entry.value[..], entry.revision) == ("42", b"two", second), "{entry:?}");
    b.bucket().await?;
    ensure!(b.bus.entry(&bucket, "42").await?.is_some(), "making the bucket again loses nothing");
    Ok(())
}

pub(super) async fn entries_are_all_there(b: Bench) -> Result<()> {
    let bucket = b.bucket().await?;
    ensure!(b.bus.entries(&bucket).await?.is_empty());
    for key in ["1", "2", "3"] {
        let revision = b.bus.put_entry(&bucket, key, Bytes::from_static(b"old"), 0).await?;
        b.bus.put_entry(&bucket, key, Bytes::from(key.to_owned()), revision).await?;
    }
    let mut entries = b.bus.entries(&bucket).await?;
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    let found: Vec<_> = entries.iter().map(|e| (e.key.as_str(), &e.value[..])).collect();
    ensure!(found == [("1", &b"1"[..]), ("2", b"2"), ("3", b"3")], "{entries:?}");
    Ok(())
}
