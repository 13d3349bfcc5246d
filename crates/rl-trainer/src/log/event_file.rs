//! TensorBoard event files with scalars, images and texts: length-prefixed, checksummed protobuf records.
//!
//! The format is TensorFlow's `core/lib/io/record_writer.h` around `core/util/event.proto`,
//! `core/framework/summary.proto` and `tensor.proto`. The crates that write it need a protobuf compiler at
//! build time or an image library of their own; what is written here needs a dozen fields.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// How TensorBoard knows its files.
const START: &str = "events.out.tfevents.";
/// TensorFlow's number of texts among the types of tensors.
const DT_STRING: u64 = 7;

/// A picture for TensorBoard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedPicture {
    /// What TensorBoard calls it.
    pub tag: String,
    /// The picture as PNG.
    pub png: Vec<u8>,
    /// Width and height in pixels.
    pub size: [u32; 2],
}

/// Writes numbers, pictures and texts where TensorBoard finds them.
pub(crate) struct EventFile {
    file: BufWriter<File>,
}

impl EventFile {
    /// Opens one event file in `folder`. It gets the values of the files there for which `stays` is true of step and tag, each
    /// step and tag once. A record that was cut short is dropped.
    pub fn open(folder: &Path, stays: impl Fn(u64, &str) -> bool) -> std::io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut old = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(START) {
                old.push(path);
            }
        }
        old.sort();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let name = format!("{START}{}.{:09}.aptvit", now.as_secs(), now.subsec_nanos());
        // TensorBoard does not read a file of this name.
        let partial = folder.join("events.partial");
        let mut file = Self {
            file: BufWriter::new(File::create(&partial)?),
        };
        let mut event = wall_time();
        put_bytes(&mut event, 3, b"brain.Event:2");
        file.write_record(&event)?;
        let mut seen = HashSet::new();
        for path in &old {
            let bytes = fs::read(path)?;
            for event in Records(&bytes) {
                if let Some((step, tag)) = step_and_tag(event)
                    && stays(step, &tag)
                    && seen.insert((step, tag))
                {
                    file.write_record(event)?;
                }
            }
        }
        file.flush()?;
        fs::rename(&partial, folder.join(name))?;
        for path in &old {
            fs::remove_file(path)?;
        }
        Ok(file)
    }

    /// Writes `value` under `tag` at `step`.
    pub fn scalar(&mut self, step: u64, tag: &str, value: f64) -> std::io::Result<()> {
        let mut summary_value = Vec::new();
        put_bytes(&mut summary_value, 1, tag.as_bytes());
        put_key(&mut summary_value, 2, 5);
        summary_value.extend((value as f32).to_le_bytes());
        self.write_value(step, &summary_value)
    }

    /// Writes a picture at `step`.
    pub fn picture(&mut self, step: u64, picture: &LoggedPicture) -> std::io::Result<()> {
        let [width, height] = picture.size;
        let mut image = Vec::new();
        // Height, width, and that it has three channels.
        for (field, number) in [(1, height), (2, width), (3, 3)] {
            put_number(&mut image, field, u64::from(number));
        }
        put_bytes(&mut image, 4, &picture.png);
        let mut summary_value = Vec::new();
        put_bytes(&mut summary_value, 1, picture.tag.as_bytes());
        put_bytes(&mut summary_value, 4, &image);
        self.write_value(step, &summary_value)
    }

    /// Writes a text under `tag` at `step`; TensorBoard shows it as Markdown.
    pub fn text(&mut self, step: u64, tag: &str, text: &str) -> std::io::Result<()> {
        let mut plugin = Vec::new();
        put_bytes(&mut plugin, 1, b"text");
        let mut metadata = Vec::new();
        put_bytes(&mut metadata, 1, &plugin);
        let mut dimension = Vec::new();
        put_number(&mut dimension, 1, 1);
        let mut shape = Vec::new();
        put_bytes(&mut shape, 2, &dimension);
        let mut tensor = Vec::new();
        put_number(&mut tensor, 1, DT_STRING);
        put_bytes(&mut tensor, 2, &shape);
        put_bytes(&mut tensor, 8, text.as_bytes());
        let mut summary_value = Vec::new();
        put_bytes(&mut summary_value, 1, tag.as_bytes());
        put_bytes(&mut summary_value, 8, &tensor);
        put_bytes(&mut summary_value, 9, &metadata);
        self.write_value(step, &summary_value)
    }

    /// An event whose summary has one value.
    fn write_value(&mut self, step: u64, value: &[u8]) -> std::io::Result<()> {
        let mut summary = Vec::new();
        put_bytes(&mut summary, 1, value);
        let mut event = wall_time();
        put_number(&mut event, 2, step);
        put_bytes(&mut event, 5, &summary);
        self.write_record(&event)
    }

    pub fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }

    fn write_record(&mut self, data: &[u8]) -> std::io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        self.file.write_all(&length)?;
        self.file
            .write_all(&masked_checksum(&length).to_le_bytes())?;
        self.file.write_all(data)?;
        self.file.write_all(&masked_checksum(data).to_le_bytes())
    }
}

fn masked_checksum(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// Field 1 of an event, a double: the seconds since 1970.
fn wall_time() -> Vec<u8> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut event = Vec::new();
    put_key(&mut event, 1, 1);
    event.extend(now.as_secs_f64().to_le_bytes());
    event
}

/// The records of a file, as far as they are whole.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<8>()?;
        let (_, rest) = rest.split_first_chunk::<4>()?;
        let (data, rest) =
            rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        let (checksum, rest) = rest.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*checksum) != masked_checksum(data) {
            return None;
        }
        self.0 = rest;
        Some(data)
    }
}

/// The step and the tag of an event that holds a value.
fn step_and_tag(event: &[u8]) -> Option<(u64, String)> {
    let fields = |bytes| Fields(bytes).collect::<Vec<_>>();
    let bytes_of = |fields: &[(u64, Field<'_>)], number: u64| {
        fields.iter().find_map(|field| match field {
            (found, Field::Bytes(bytes)) if *found == number => Some(bytes.to_vec()),
            _ => None,
        })
    };
    let event = fields(event);
    let step = event.iter().find_map(|field| match field {
        (2, Field::Number(step)) => Some(*step),
        _ => None,
    });
    let summary = bytes_of(&event, 5)?;
    let value = bytes_of(&fields(&summary), 1)?;
    let tag = bytes_of(&fields(&value), 1)?;
    // Protobuf leaves out what is zero.
    Some((step.unwrap_or(0), String::from_utf8(tag).ok()?))
}

/// The fields of a protobuf message, as far as they are whole.
struct Fields<'a>(&'a [u8]);

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Field<'a>);

    fn next(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Field::Bytes(bytes)
            }
            wire_type => {
                let length = if wire_type == 1 { 8 } else { 4 };
                self.0 = self.0.split_at_checked(length)?.1;
                Field::Fixed
            }
        };
        Some((key >> 3, field))
    }
}

fn put_key(buffer: &mut Vec<u8>, field: u64, wire_type: u64) {
    put_varint(buffer, field << 3 | wire_type);
}

fn put_number(buffer: &mut Vec<u8>, field: u64, number: u64) {
    put_key(buffer, field, 0);
    put_varint(buffer, number);
}

fn put_bytes(buffer: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(buffer, field, 2);
    put_varint(buffer, bytes.len() as u64);
    buffer.extend(bytes);
}

fn put_varint(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_has_the_bytes_that_tensorflow_writes() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::open(folder.path(), |_, _| true).unwrap();
        file.scalar(300, "loss", 0.5).unwrap();
        file.flush().unwrap();
        let path = fs::read_dir(&folder)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let bytes = fs::read(path).unwrap();
        // The first record: 8 length, 4 checksum, 9 time, 15 version, 4 checksum.
        let second = &bytes[8 + 4 + 9 + 15 + 4..];
        let length = u64::from_le_bytes(second[..8].try_into().unwrap()) as usize;
        let event = &second[12..12 + length];
        assert_eq!(
            event[9..],
            [
                &[0x10, 0xac, 0x02, 0x2a, 0x0d, 0x0a, 0x0b, 0x0a, 0x04][..],
                b"loss",
                &[0x15, 0, 0, 0, 0x3f]
            ]
            .concat()
        );
        let checksum = u32::from_le_bytes(second[12 + length..16 + length].try_into().unwrap());
        assert_eq!(checksum, masked_checksum(event));
    }

    #[test]
    fn pictures_and_texts_stay_in_a_file_that_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::open(folder.path(), |_, _| true).unwrap();
        let picture = LoggedPicture {
            tag: "kept patches/0-circle".into(),
            png: vec![1, 2, 3],
            size: [4, 5],
        };
        file.picture(7, &picture).unwrap();
        file.text(0, "config", "seed = 1").unwrap();
        file.flush().unwrap();
        drop(file);
        EventFile::open(folder.path(), |_, tag| tag != "config").unwrap();
        let path = fs::read_dir(&folder)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let bytes = fs::read(path).unwrap();
        let found: Vec<_> = Records(&bytes).filter_map(step_and_tag).collect();
        assert_eq!(found, [(7, picture.tag.clone())]);
        let event = Records(&bytes).nth(1).unwrap();
        // Summary.Image: height 5, width 4, 3 channels, the bytes.
        let image = [&[0x08, 5, 0x10, 4, 0x18, 3, 0x22, 3][..], &picture.png].concat();
        assert!(event.ends_with(&image), "{event:?}");
    }

    #[test]
    fn a_file_that_goes_on_has_each_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &mut EventFile, steps: std::ops::Range<u64>| {
            for step in steps {
                file.scalar(step, "train/loss", step as f64).unwrap();
            }
            file.flush().unwrap();
        };
        let only = || {
            let mut files = fs::read_dir(&folder).unwrap();
            let path = files.next().unwrap().unwrap().path();
            assert!(files.next().is_none(), "one file");
            path
        };
        let mut file = EventFile::open(folder.path(), |_, _| true).unwrap();
        write(&mut file, 0..200);
        // A kill cuts the last record short.
        let bytes = fs::read(only()).unwrap();
        fs::write(only(), &bytes[..bytes.len() - 3]).unwrap();
        let mut file = EventFile::open(folder.path(), |step, _| step <= 150).unwrap();
        write(&mut file, 151..300);
        let bytes = fs::read(only()).unwrap();
        let found: Vec<_> = Records(&bytes).filter_map(step_and_tag).collect();
        let expected: Vec<_> = (0..300)
            .map(|step| (step, "train/loss".to_string()))
            .collect();
        assert_eq!(found, expected);
        // As after a kill between the new file and the removal of the old ones.
        fs::copy(only(), folder.path().join(format!("{START}1.aptvit"))).unwrap();
        EventFile::open(folder.path(), |_, _| true).unwrap();
        let bytes = fs::read(only()).unwrap();
        assert_eq!(Records(&bytes).filter_map(step_and_tag).count(), 300);
    }
}
