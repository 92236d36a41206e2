//! The sections of a parameter file: a count, then as many points, each a fixed base's multiple.

use std::io::Write;
use std::ops::Range;

use blstrs::{G1Affine, G2Affine, Scalar};
use ff::Field;
use rayon::prelude::*;

use super::fixed_base::{Affine, FixedBase, Sums};
use super::{GenerateError, Stage, Watch};

/// Scalars that one task multiplies together.
const CHUNK: usize = 512;
/// Chunks between two writes: about 12 MiB of points in G1.
const CHUNKS_A_WRITE: usize = 256;
/// Bytes of a count.
const COUNT_BYTES: usize = 4;

/// Scalars to the uncompressed encodings of a base's multiples by them.
type Encode<'a> = dyn Fn(&[Scalar]) -> Vec<u8> + Sync + 'a;

/// Encodes the multiples of a base, whichever curve it is on.
pub(super) struct Tables<'a> {
    encode: Box<Encode<'a>>,
    point_bytes: usize,
    /// Additions of the multiplications that the tables are made for, with the tables' own.
    additions: usize,
}

impl Tables<'_> {
    /// Multiples of a point in G1, with a table for `count` of them.
    pub(super) fn g1(base: &G1Affine, count: usize) -> Self {
        let base = Affine { x: base.x(), y: base.y() };
        Self::of(base, count, |point| G1Affine::from_raw_unchecked(point.x, point.y, false).to_uncompressed())
    }

    /// Multiples of a point in G2, with a table for `count` of them.
    pub(super) fn g2(base: &G2Affine, count: usize) -> Self {
        let base = Affine { x: base.x(), y: base.y() };
        Self::of(base, count, |point| G2Affine::from_raw_unchecked(point.x, point.y, false).to_uncompressed())
    }

    fn of<'a, F: Field + 'a, const BYTES: usize>(
        base: Affine<F>,
        count: usize,
        encode: impl Fn(&Affine<F>) -> [u8; BYTES] + Sync + 'a,
    ) -> Tables<'a> {
        let table = FixedBase::new(base, count);
        let additions = table.additions(count);
        let encode = move |scalars: &[Scalar]| {
            let mut sums = Sums::new();
            table.multiply(scalars, &mut sums);
            let mut bytes = Vec::with_capacity(scalars.len() * BYTES);
            for point in &sums.points {
                bytes.extend_from_slice(&encode(point));
            }
            bytes
        };
        Tables { encode: Box::new(encode), point_bytes: BYTES, additions }
    }

    /// Additions of points that they stand for.
    pub(super) fn additions(&self) -> usize {
        self.additions
    }

    /// Bytes of an encoded point.
    pub(super) fn point_bytes(&self) -> usize {
        self.point_bytes
    }
}

/// One section.
pub(super) struct Section {
    /// By which name it is reported.
    pub(super) stage: Stage,
    /// Its points.
    pub(super) count: usize,
}

impl Section {
    /// Bytes of a section.
    pub(super) fn bytes(count: usize, point_bytes: usize) -> usize {
        COUNT_BYTES + count * point_bytes
    }

    /// Writes the count and the base's multiples by `scalars`, which is asked for them range by range.
    ///
    /// # Errors
    /// `Io` where `out` refuses, `Stopped` where `watch` says so.
    pub(super) fn write(
        &self,
        tables: &Tables<'_>,
        scalars: impl Fn(Range<usize>) -> Vec<Scalar> + Sync,
        watch: &dyn Watch,
        out: &mut (dyn Write + Send),
    ) -> Result<(), GenerateError> {
        let count = u32::try_from(self.count).map_err(std::io::Error::other)?;
        out.write_all(&count.to_be_bytes())?;
        let starts: Vec<usize> = (0..self.count).step_by(CHUNK).collect();
        let mut ready = Vec::new();
        // While some points are computed, those before them are written.
        for starts in starts.chunks(CHUNKS_A_WRITE) {
            let (computed, written) =
                rayon::join(|| self.compute(tables, &scalars, starts, watch), || write_all(out, &ready));
            written?;
            ready = computed;
            if watch.stopped() {
                return Err(GenerateError::Stopped);
            }
        }
        Ok(write_all(out, &ready)?)
    }

    fn compute(
        &self,
        tables: &Tables<'_>,
        scalars: &(impl Fn(Range<usize>) -> Vec<Scalar> + Sync),
        starts: &[usize],
        watch: &dyn Watch,
    ) -> Vec<Vec<u8>> {
        let chunk = |start: &usize| {
            let range = *start..(start + CHUNK).min(self.count);
            let units = range.len();
            let encoded = if watch.stopped() { Vec::new() } else { (tables.encode)(&scalars(range)) };
            watch.done(self.stage, units);
            encoded
        };
        starts.par_iter().map(chunk).collect()
    }
}

fn write_all(out: &mut (dyn Write + Send), parts: &[Vec<u8>]) -> std::io::Result<()> {
    parts.iter().try_for_each(|part| out.write_all(part))
}

/// `factor * base^i` for the `i` of a range.
pub(super) fn powers(base: &Scalar, factor: &Scalar, range: Range<usize>) -> Vec<Scalar> {
    let first = base.pow_vartime([range.start as u64]) * factor;
    std::iter::successors(Some(first), |power| Some(*power * base)).take(range.len()).collect()
}
