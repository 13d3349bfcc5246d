use super::*;
#[cfg(feature = "download")]
use crate::download::Downloader;
use crate::samples::{cifar10, cifar100, class_folders, tar_gz, write_files};
#[cfg(feature = "download")]
use crate::server::{Answer, Server};

const OWN: DataSource = DataSource::Folder {
    test_fraction: 0.1,
    seed: 0,
};

fn parse(text: &str) -> Result<DataSource, toml::de::Error> {
    toml::from_str(text)
}

#[test]
fn a_table_needs_no_more_than_its_source() {
    assert_eq!(parse("source = 'shapes'").unwrap(), DataSource::default());
    assert_eq!(parse("source = 'cifar10'").unwrap(), DataSource::Cifar10 {});
    let labels = CifarLabels::Fine;
    assert_eq!(
        parse("source = 'cifar100'").unwrap(),
        DataSource::Cifar100 { labels }
    );
    assert_eq!(parse("source = 'folder'").unwrap(), OWN);
}

#[test]
fn a_table_says_what_it_was_made_from() {
    for source in [
        DataSource::default(),
        DataSource::Cifar10 {},
        DataSource::Cifar100 {
            labels: CifarLabels::Coarse,
        },
        OWN,
    ] {
        assert_eq!(parse(&toml::to_string(&source).unwrap()).unwrap(), source);
    }
}

#[test]
fn a_misspelt_field_is_an_error_in_every_source() {
    for source in ["shapes", "cifar10", "cifar100", "folder"] {
        let error = parse(&format!("source = '{source}'\nsead = 1")).unwrap_err();
        assert!(error.to_string().contains("sead"), "{source}: {error}");
    }
}

#[test]
fn own_images_need_a_path() {
    let error = OWN.load(None, Progress::Hidden).unwrap_err().to_string();
    assert!(error.contains("--data"), "{error}");
}

#[test]
fn shapes_read_no_file() {
    let shapes = DataSource::default();
    let error = shapes
        .load(Some(Path::new("pets")), Progress::Hidden)
        .unwrap_err();
    assert!(error.to_string().contains("but pets was given"), "{error}");
}

#[test]
fn an_impossible_test_fraction_is_an_error() {
    for test_fraction in [0.0, 1.0, -0.1, f64::NAN] {
        let source = DataSource::Folder {
            test_fraction,
            seed: 0,
        };
        let error = source
            .load(Some(Path::new(".")), Progress::Hidden)
            .unwrap_err();
        assert!(error.to_string().contains("test_fraction"), "{error}");
    }
}

/// Loads from a folder that holds these files.
fn load(source: &DataSource, files: &[(String, Vec<u8>)]) -> Result<Splits, DataError> {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), files);
    source.load(Some(folder.path()), Progress::Hidden)
}

#[test]
fn what_is_found_at_the_path_decides() {
    let ten = DataSource::Cifar10 {};
    let archive = tar_gz(&cifar10(3));
    let by_hand = [("cifar-10-binary.tar.gz".into(), archive)];
    assert_eq!(load(&ten, &cifar10(3)).unwrap().train.len(), 15);
    assert_eq!(load(&ten, &by_hand).unwrap().test.len(), 3);
    let images = class_folders(&["ant", "bee"], 5, 2);
    assert_eq!(
        load(&ten, &images).unwrap().train.class_names(),
        ["ant", "bee"]
    );
    let hundred = DataSource::Cifar100 {
        labels: CifarLabels::Coarse,
    };
    assert_eq!(
        load(&hundred, &cifar100(5, 5)).unwrap().train.num_classes(),
        20
    );
}

#[test]
fn any_files_are_loaded_as_what_they_are() {
    let load = |files: &[(String, Vec<u8>)]| {
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), files);
        DataSource::load_any(folder.path(), Progress::Hidden).unwrap()
    };
    assert_eq!(load(&cifar10(3)).train.num_classes(), 10);
    assert_eq!(load(&cifar100(5, 5)).train.num_classes(), 100);
    let images = class_folders(&["ant", "bee"], 5, 2);
    assert_eq!(load(&images).train.class_names(), ["ant", "bee"]);
}

#[test]
fn the_files_of_another_source_are_recognised() {
    let error = load(&DataSource::Cifar10 {}, &cifar100(2, 2))
        .unwrap_err()
        .to_string();
    assert!(error.contains("set source = \"cifar100\""), "{error}");
    let error = load(&OWN, &cifar10(2)).unwrap_err().to_string();
    assert!(error.contains("set source = \"cifar10\""), "{error}");
}

#[test]
fn a_download_that_is_not_the_official_file_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(tar_gz(&cifar10(1)), vec![Answer::File]);
    let fetch = |dataset: Cifar| {
        let base = server.url("");
        let downloader = Downloader::for_tests();
        cifar_download::fetch(dataset, &base, cache.path(), &downloader, Progress::Hidden)
    };
    let source = DataSource::Cifar10 {};
    let error = source
        .load_with(None, Progress::Hidden, fetch)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("cifar-10-binary.tar.gz has MD5 checksum"),
        "{error}"
    );
    assert!(
        error.contains("c32a1d4ab5d03f1284b67883e8d87530"),
        "{error}"
    );
}

#[test]
fn a_fetched_archive_is_loaded() {
    let cache = tempfile::tempdir().unwrap();
    let path = cache.path().join("cifar-10-binary.tar.gz");
    std::fs::write(&path, tar_gz(&cifar10(2))).unwrap();
    let source = DataSource::Cifar10 {};
    let fetch = |_| Ok(path.clone());
    let splits = source.load_with(None, Progress::Hidden, fetch).unwrap();
    assert_eq!((splits.train.len(), splits.test.len()), (10, 2));
}
