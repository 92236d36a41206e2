//! Many multiples of one point: sums of table entries in affine coordinates.
//!
//! A scalar is cut into signed digits of `width` bits; the table holds, for every digit's place, the
//! positive multiples of the base. The sums of a thousand scalars go on together, so that one inversion
//! serves a thousand additions (Montgomery's trick), about six field multiplications each. Nothing here
//! is constant-time.

use std::ops::Range;

use blstrs::Scalar;
use ff::{Field, PrimeField};

/// Bits of a scalar, one more than the field's, so that the highest digit absorbs its carry.
const SCALAR_BITS: u32 = Scalar::NUM_BITS + 1;
/// The widest digit: its table has 16 times 2^15 points.
const WIDTH_MAX: u32 = 16;

/// An affine point of y^2 = x^3 + b with b not zero; (0, 0), which is on no such curve, is the identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Affine<F> {
    pub(super) x: F,
    pub(super) y: F,
}

impl<F: Field> Affine<F> {
    const IDENTITY: Self = Self { x: F::ZERO, y: F::ZERO };
}

/// Inverts all values with one inversion; zeros stay zero.
pub(super) fn invert_all<F: Field>(values: &mut [F]) {
    let mut before = Vec::with_capacity(values.len());
    let mut product = F::ONE;
    for value in values.iter() {
        before.push(product);
        if *value != F::ZERO {
            product *= value;
        }
    }
    // A product of what is not zero is not zero.
    let mut inverse = product.invert().unwrap_or(F::ONE);
    for (value, before) in values.iter_mut().zip(before).rev() {
        if *value != F::ZERO {
            let this = inverse * before;
            inverse *= *value;
            *value = this;
        }
    }
}

/// The multiples of one point that others are summed from.
pub(super) struct FixedBase<F> {
    width: u32,
    /// For every place, the base shifted to it times 1 to `2^(width-1)`.
    entries: Vec<Affine<F>>,
}

impl<F: Field> FixedBase<F> {
    /// The table of `base` that makes `count` multiplications cheapest, with the table's own cost.
    pub(super) fn new(base: Affine<F>, count: usize) -> Self {
        let cost = |width: &u32| u64::from(places(*width)) * ((1u64 << (width - 1)) + count as u64);
        let width = (2..=WIDTH_MAX).min_by_key(cost).unwrap_or(WIDTH_MAX);
        Self::of_width(base, width)
    }

    fn of_width(base: Affine<F>, width: u32) -> Self {
        let half = 1 << (width - 1);
        let mut entries = Vec::with_capacity(places(width) as usize * half);
        let mut sums = Sums::new();
        let mut shifted = base;
        for _ in 0..places(width) {
            let start = entries.len();
            entries.push(shifted);
            // With 1 to n at hand, n + 1 to 2n are n plus each of them.
            while entries.len() - start < half {
                let known = entries.len() - start;
                let highest = entries[start + known - 1];
                sums.begin(known, Some(highest));
                sums.add(|i| Some(Term { point: &entries[start + i], negative: false }));
                entries.extend_from_slice(&sums.points);
            }
            sums.begin(1, Some(entries[start + half - 1]));
            sums.add(|_| entries.last().map(|point| Term { point, negative: false }));
            shifted = sums.points[0];
        }
        Self { width, entries }
    }

    /// Additions that making the table and `count` multiplications take.
    pub(super) fn additions(&self, count: usize) -> usize {
        self.entries.len() + count * (places(self.width) as usize - 1)
    }

    /// The base times each of `scalars`, into `sums.points`.
    pub(super) fn multiply(&self, scalars: &[Scalar], sums: &mut Sums<F>) {
        let places = places(self.width) as usize;
        let mut digits = std::mem::take(&mut sums.digits);
        digits.clear();
        digits.resize(places * scalars.len(), 0);
        for (i, scalar) in scalars.iter().enumerate() {
            let digits = digits[i..].iter_mut().step_by(scalars.len());
            signed_digits(scalar, self.width, digits);
        }
        sums.begin(scalars.len(), None);
        for (place, digits) in digits.chunks(scalars.len().max(1)).enumerate() {
            let entries = &self.entries[self.range(place)];
            sums.add(|i| term(entries, digits[i]));
        }
        sums.digits = digits;
    }

    fn range(&self, place: usize) -> Range<usize> {
        let half = 1 << (self.width - 1);
        place * half..(place + 1) * half
    }
}

/// Digits of a scalar.
fn places(width: u32) -> u32 {
    SCALAR_BITS.div_ceil(width)
}

/// The entry that a digit stands for; nothing for zero.
fn term<F>(entries: &[Affine<F>], digit: i32) -> Option<Term<'_, F>> {
    let point = entries.get((digit.unsigned_abs() as usize).checked_sub(1)?)?;
    Some(Term { point, negative: digit < 0 })
}

/// Cuts `scalar` into digits from `1 - 2^(width-1)` to `2^(width-1)`, the lowest place first.
fn signed_digits<'a>(scalar: &Scalar, width: u32, digits: impl Iterator<Item = &'a mut i32>) {
    let bytes = scalar.to_repr();
    let (half, whole) = (1 << (width - 1), 1 << width);
    let mut carry = 0;
    for (place, digit) in digits.enumerate() {
        let value = bits(&bytes, place as u32 * width, width) + carry;
        carry = i32::from(value > half);
        *digit = value - carry * whole;
    }
    debug_assert_eq!(carry, 0, "the highest digit absorbs its carry");
}

/// `width` bits of a little-endian number, at most 17 of them, from bit `from` on.
fn bits(bytes: &[u8; 32], from: u32, width: u32) -> i32 {
    let first = (from / 8) as usize;
    let window = (0..4).fold(0, |window, i| {
        window | u32::from(bytes.get(first + i).copied().unwrap_or(0)) << (8 * i as u32)
    });
    ((window >> (from % 8)) & ((1 << width) - 1)) as i32
}

/// What is added to a sum: a point that is not the identity, or its negative.
#[derive(Clone, Copy)]
struct Term<'a, F> {
    point: &'a Affine<F>,
    negative: bool,
}

/// How one sum meets its term.
#[derive(Clone, Copy)]
enum Slope<F> {
    /// Not at all: there is no term, or the sum is known.
    None,
    /// Along the line through both, with this difference of their x.
    Chord(F),
    /// Along the tangent of both, with this difference of x; they are one point.
    Tangent(F),
}

/// Sums of points that grow together, and the room they need.
///
/// A comparison of field elements is not cheap beside a multiplication, so what can be known without one
/// is kept: which sums are not the identity, and, by one comparison for all, that no two points met.
pub(super) struct Sums<F> {
    pub(super) points: Vec<Affine<F>>,
    /// Which of the points are not the identity.
    begun: Vec<bool>,
    digits: Vec<i32>,
    /// The terms of this round side by side: fetched in one go, their ways through memory overlap.
    others: Vec<Affine<F>>,
    slopes: Vec<Slope<F>>,
    /// The product of the denominators before that of each slope.
    before: Vec<F>,
}

impl<F: Field> Sums<F> {
    pub(super) fn new() -> Self {
        let (points, begun, digits) = (Vec::new(), Vec::new(), Vec::new());
        Self { points, begun, digits, others: Vec::new(), slopes: Vec::new(), before: Vec::new() }
    }

    /// `count` sums begin, all with `point` where there is one.
    fn begin(&mut self, count: usize, point: Option<Affine<F>>) {
        self.points.clear();
        self.points.resize(count, point.unwrap_or(Affine::IDENTITY));
        self.begun.clear();
        self.begun.resize(count, point.is_some());
    }

    /// Adds `term(i)`, where there is one, to every sum `i`.
    fn add<'a>(&mut self, term: impl Fn(usize) -> Option<Term<'a, F>>)
    where
        F: 'a,
    {
        let sign = |i| term(i).map(|term| term.negative);
        self.others.clear();
        self.others.extend((0..self.points.len()).map(|i| term(i).map_or(Affine::IDENTITY, |t| *t.point)));
        let mut product = self.chords(sign);
        if product == F::ZERO {
            // Hardly ever with random scalars.
            product = self.tangents(sign);
        }
        // A product of what is not zero is not zero.
        let mut inverse = product.invert().unwrap_or(F::ONE);
        for (i, point) in self.points.iter_mut().enumerate().rev() {
            let (other, negative) = (&self.others[i], sign(i) == Some(true));
            // The slope's sign is left out where the term is negative, and made up for in the last line.
            let (rise, run) = match &self.slopes[i] {
                Slope::None => continue,
                Slope::Chord(run) if negative => (other.y + point.y, run),
                Slope::Chord(run) => (other.y - point.y, run),
                Slope::Tangent(run) => {
                    let square = point.x.square();
                    (square.double() + square, run)
                }
            };
            let slope = rise * (inverse * self.before[i]);
            inverse *= run;
            let x = slope.square() - point.x - other.x;
            let fall = if negative { x - point.x } else { point.x - x };
            *point = Affine { x, y: slope * fall - point.y };
        }
    }

    /// Draws the lines between sums and terms; the product of their denominators is zero where two met.
    fn chords(&mut self, sign: impl Fn(usize) -> Option<bool>) -> F {
        let mut product = F::ONE;
        self.slopes.clear();
        self.before.clear();
        for (i, (point, other)) in self.points.iter_mut().zip(&self.others).enumerate() {
            let slope = match sign(i) {
                None => Slope::None,
                Some(negative) if !self.begun[i] => {
                    *point = Affine { x: other.x, y: if negative { -other.y } else { other.y } };
                    self.begun[i] = true;
                    Slope::None
                }
                Some(_) => Slope::Chord(other.x - point.x),
            };
            self.before.push(product);
            if let Slope::Chord(run) = &slope {
                product *= run;
            }
            self.slopes.push(slope);
        }
        product
    }

    /// Puts right the lines of sums that met their terms: a tangent, or nothing where they cancel.
    fn tangents(&mut self, sign: impl Fn(usize) -> Option<bool>) -> F {
        let mut product = F::ONE;
        for (i, slope) in self.slopes.iter_mut().enumerate() {
            let (point, other) = (&mut self.points[i], &self.others[i]);
            if matches!(slope, Slope::Chord(run) if *run == F::ZERO) {
                let negative = sign(i) == Some(true);
                if (point.y == other.y) == negative {
                    *point = Affine::IDENTITY;
                    self.begun[i] = false;
                    *slope = Slope::None;
                } else {
                    // A point of odd order has no y of zero.
                    let run = point.y.double();
                    *slope = Slope::Tangent(if negative { -run } else { run });
                }
            }
            self.before[i] = product;
            if let Slope::Chord(run) | Slope::Tangent(run) = slope {
                product *= &*run;
            }
        }
        product
    }
}

#[cfg(test)]
mod tests {
    use blstrs::{G1Affine, G1Projective, G2Affine, G2Projective};
    use group::prime::PrimeCurveAffine;
    use group::{Curve, Group};
    use proptest::prelude::*;

    use super::*;

    /// Scalars at the edges of digits, carries and the field.
    fn edges() -> Vec<Scalar> {
        let powers = (0..Scalar::NUM_BITS).map(|bit| Scalar::from(2).pow_vartime([u64::from(bit)]));
        let around = powers.flat_map(|power| [power - Scalar::ONE, power, power + Scalar::ONE, -power]);
        [Scalar::ZERO, Scalar::ONE, -Scalar::ONE, Scalar::TWO_INV].into_iter().chain(around).collect()
    }

    fn check_g1(base: G1Projective, width: u32, scalars: &[Scalar]) {
        let affine = base.to_affine();
        let table = FixedBase::of_width(Affine { x: affine.x(), y: affine.y() }, width);
        let mut sums = Sums::new();
        table.multiply(scalars, &mut sums);
        for (scalar, sum) in scalars.iter().zip(&sums.points) {
            let want = (base * scalar).to_affine();
            assert_eq!(G1Affine::from_raw_unchecked(sum.x, sum.y, false), want, "{width} {scalar:?}");
        }
        assert_eq!(sums.points.len(), scalars.len());
    }

    #[test]
    fn multiples_at_every_edge_are_those_of_the_curve_library() {
        for width in [2, 3, 5, 7, 8, 11, 13, 16] {
            check_g1(G1Projective::generator(), width, &edges());
        }
        let base = G2Projective::generator() * Scalar::from(99);
        let affine = base.to_affine();
        let table = FixedBase::of_width(Affine { x: affine.x(), y: affine.y() }, 6);
        let mut sums = Sums::new();
        table.multiply(&edges(), &mut sums);
        for (scalar, sum) in edges().iter().zip(&sums.points) {
            assert_eq!(G2Affine::from_raw_unchecked(sum.x, sum.y, false), (base * scalar).to_affine());
        }
    }

    #[test]
    fn a_sum_may_double_cancel_or_meet_the_identity_on_its_way() {
        let g = G1Affine::generator();
        let g = Affine { x: g.x(), y: g.y() };
        let minus_g = Affine { x: g.x, y: -g.y };
        let mut sums = Sums::new();
        let plus = Some(Term { point: &g, negative: false });
        let minus = Some(Term { point: &g, negative: true });
        sums.begin(8, None);
        let starts = [plus, minus, plus, minus, None, None, plus, None];
        sums.add(|i| starts[i]);
        let terms = [plus, minus, minus, plus, plus, minus, None, None];
        sums.add(|i| terms[i]);
        let doubled = (G1Projective::generator() * Scalar::from(2)).to_affine();
        let doubled = Affine { x: doubled.x(), y: doubled.y() };
        let minus_doubled = Affine { x: doubled.x, y: -doubled.y };
        let identity = Affine::IDENTITY;
        assert_eq!(sums.points, [doubled, minus_doubled, identity, identity, g, minus_g, g, identity]);
    }

    #[test]
    fn inversion_leaves_zeros_and_inverts_the_rest() {
        let mut values = [0u64, 3, 0, 5, 7, 0].map(Scalar::from);
        let original = values;
        invert_all(&mut values);
        for (value, original) in values.iter().zip(original) {
            assert_eq!(*value, original.invert().unwrap_or(Scalar::ZERO));
        }
        invert_all::<Scalar>(&mut []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn digits_sum_to_their_scalar(limbs: [u64; 4], width in 2u32..=WIDTH_MAX) {
            let scalar = limbs.iter().fold(Scalar::ZERO, |sum, limb| {
                sum * Scalar::from(u64::MAX) + Scalar::from(*limb)
            });
            let mut digits = vec![0; places(width) as usize];
            signed_digits(&scalar, width, digits.iter_mut());
            let radix = Scalar::from(1 << width);
            let sum = digits.iter().rev().fold(Scalar::ZERO, |sum, digit| {
                let size = Scalar::from(u64::from(digit.unsigned_abs()));
                sum * radix + if *digit < 0 { -size } else { size }
            });
            prop_assert_eq!(sum, scalar);
            prop_assert!(digits.iter().all(|digit| digit.unsigned_abs() <= 1 << (width - 1)));
        }
    }
}
