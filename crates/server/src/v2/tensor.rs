//! Values of a tensor as JSON has them, flat or nested.

use serde::de::{DeserializeSeed, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The values of one tensor, in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// None yet.
    Empty,
    /// Of a tensor of numbers.
    Numbers(Vec<f32>),
    /// Of a tensor of texts.
    Texts(Vec<String>),
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut values = Self::Empty;
        Collect(&mut values).deserialize(deserializer)?;
        Ok(values)
    }
}

/// Adds what comes to the values; lists within lists are one after another.
struct Collect<'a>(&'a mut Values);

impl<'de> DeserializeSeed<'de> for Collect<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Collect<'_> {
    fn number<E: Error>(self, number: f64) -> Result<(), E> {
        match self.0 {
            Values::Numbers(numbers) => numbers.push(number as f32),
            Values::Empty => *self.0 = Values::Numbers(vec![number as f32]),
            Values::Texts(_) => return Err(E::custom("a number among texts")),
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("numbers or texts, flat or nested")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Collect(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.number(number)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.number(number as f64)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.number(number as f64)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match self.0 {
            Values::Texts(texts) => texts.push(text.to_string()),
            Values::Empty => *self.0 = Values::Texts(vec![text.to_string()]),
            Values::Numbers(_) => return Err(E::custom("a text among numbers")),
        }
        Ok(())
    }
}

/// The texts of a binary tensor of BYTES: each behind its length, 4 bytes, the lowest first.
///
/// # Errors
///
/// Where it ends before a text does.
pub(crate) fn texts_of(mut bytes: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        let cut = || format!("a BYTES tensor ends within its element {}", texts.len());
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (text, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        texts.push(text);
        bytes = rest;
    }
    Ok(texts)
}

/// The numbers of a binary tensor of FP32.
///
/// # Errors
///
/// Where its bytes are no multiple of 4.
pub(crate) fn numbers_of(bytes: &[u8]) -> Result<Vec<f32>, String> {
    let (numbers, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(format!(
            "an FP32 tensor of {} bytes: expected a multiple of 4",
            bytes.len()
        ));
    }
    Ok(numbers
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_lists_are_read_row_by_row() {
        let values: Values = serde_json::from_str("[[1, -2], [3.5, 4e0]]").unwrap();
        assert_eq!(values, Values::Numbers(vec![1.0, -2.0, 3.5, 4.0]));
        let values: Values = serde_json::from_str(r#"["a", ["b"]]"#).unwrap();
        assert_eq!(values, Values::Texts(vec!["a".into(), "b".into()]));
        for mixed in [r#"["a", 1]"#, r#"[1, "a"]"#, "[null]", "[{}]"] {
            assert!(serde_json::from_str::<Values>(mixed).is_err(), "{mixed}");
        }
    }

    #[test]
    fn binary_texts_have_their_lengths_before_them() {
        assert_eq!(
            texts_of(b"\x01\0\0\0a\0\0\0\0\x02\0\0\0bc").unwrap(),
            [&b"a"[..], b"", b"bc"]
        );
        for cut in [&b"\x01\0\0"[..], b"\x02\0\0\0a", b"\xff\xff\xff\xff"] {
            assert!(texts_of(cut).is_err());
        }
        assert!(numbers_of(&[0; 5]).is_err());
        assert_eq!(numbers_of(&1.5f32.to_le_bytes()).unwrap(), [1.5]);
    }
}
