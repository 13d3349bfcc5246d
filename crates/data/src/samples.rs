//! Small images and archives for this crate's tests.

use crate::RgbImage;
use flate2::Compression;
use flate2::write::GzEncoder;
use image::{ColorType, ImageFormat};
use std::io::{Cursor, Write};
use std::path::Path;

/// An image whose pixels all differ a little, recognisable by `tone`.
pub(crate) fn picture(width: u32, height: u32, tone: u8) -> RgbImage {
    let pixels = (0..width * height)
        .flat_map(|i| {
            let shade = ((i * 7) % 50) as u8;
            [tone, tone.wrapping_add(shade), shade]
        })
        .collect();
    RgbImage {
        width,
        height,
        pixels,
    }
}

pub(crate) fn png(image: &RgbImage) -> Vec<u8> {
    encode(image, ImageFormat::Png)
}

pub(crate) fn jpeg(image: &RgbImage) -> Vec<u8> {
    encode(image, ImageFormat::Jpeg)
}

pub(crate) fn encode(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image::write_buffer_with_format(
        &mut bytes,
        &image.pixels,
        image.width,
        image.height,
        ColorType::Rgb8,
        format,
    )
    .unwrap();
    bytes.into_inner()
}

/// Writes files, given as (path below `root`, bytes), with their folders.
pub(crate) fn write_files(root: &Path, files: &[(String, Vec<u8>)]) {
    for (path, bytes) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// A .tar.gz of files, given as (path, bytes).
pub(crate) fn tar_gz(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        archive
            .append_data(&mut header(bytes.len() as u64), path, &bytes[..])
            .unwrap();
    }
    gzip(&archive.into_inner().unwrap())
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A tar header for a plain file of `size` bytes.
pub(crate) fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

/// `train/<class>/<i>.png` (and the same below `test/`) with `count` 8 x 8 images a class.
pub(crate) fn class_folders(classes: &[&str], train: usize, test: usize) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for (split, count) in [("train", train), ("test", test)] {
        for (label, class) in classes.iter().enumerate() {
            for i in 0..count {
                let image = picture(8, 8, (label * 50 + i) as u8);
                files.push((format!("{split}/{class}/{i:03}.png"), png(&image)));
            }
        }
    }
    files
}

/// The official layout of CIFAR-10, with `records` images a file.
pub(crate) fn cifar10(records: usize) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = (1..=5u8)
        .map(|batch| (format!("data_batch_{batch}.bin"), batch))
        .chain([("test_batch.bin".to_string(), 6)])
        .map(|(name, batch)| {
            let bytes = (0..records).flat_map(|i| {
                let mut record = vec![(i % 10) as u8];
                record.extend(planes(batch, i as u8));
                record
            });
            (name, bytes.collect())
        })
        .collect();
    let names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
    files.push(("batches.meta.txt".into(), names.into()));
    in_folder("cifar-10-batches-bin", files)
}

/// The official layout of CIFAR-100: fine label i, coarse label i / 5.
pub(crate) fn cifar100(train: usize, test: usize) -> Vec<(String, Vec<u8>)> {
    let names = |what: &str, count: usize| {
        let names: Vec<_> = (0..count).map(|i| format!("{what}{i}\n")).collect();
        names.concat().into_bytes()
    };
    let mut files = vec![
        ("fine_label_names.txt".into(), names("fine", 100)),
        ("coarse_label_names.txt".into(), names("coarse", 20)),
    ];
    for (name, records) in [("train.bin", train), ("test.bin", test)] {
        let bytes = (0..records).flat_map(|i| {
            let fine = (i % 100) as u8;
            let mut record = vec![fine / 5, fine];
            record.extend(planes(7, i as u8));
            record
        });
        files.push((name.into(), bytes.collect()));
    }
    in_folder("cifar-100-binary", files)
}

/// Red, green and blue planes of 32 x 32: red is `red` everywhere, green counts the columns, blue
/// is `blue`.
fn planes(red: u8, blue: u8) -> Vec<u8> {
    let mut planes = vec![red; 1024];
    planes.extend((0..1024).map(|i| (i % 32) as u8));
    planes.extend([blue; 1024]);
    planes
}

fn in_folder(folder: &str, files: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    files
        .into_iter()
        .map(|(name, bytes)| (format!("{folder}/{name}"), bytes))
        .collect()
}
