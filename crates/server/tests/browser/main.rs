//! The page in a real Chromium: `page.mjs` against a server in this process.
//!
//! It needs Node with `npm ci` run in this folder, and Chromium or Chrome; where one is missing, the test is skipped.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../http/common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use common::Running;
use common::testing::picture;
use image::ImageFormat;
use libtest_mimic::{Arguments, Failed, Trial};

const NAME: &str = "the_page_holds_what_it_says_in_chromium";
/// What Chromium is called where it is installed.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

fn main() -> ExitCode {
    let test = match browser() {
        Ok(browser) => Trial::test(NAME, move || holds_what_it_says(&browser)),
        Err(missing) => {
            let skipped = Trial::test(NAME, || Ok(())).with_ignored_flag(true);
            skipped.with_kind(format!("skipped: {missing}"))
        }
    };
    libtest_mimic::run(&Arguments::from_args(), vec![test]).exit_code()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser")
}

/// The browser, or what is missing.
fn browser() -> Result<PathBuf, &'static str> {
    let found = match std::env::var_os("CHROMIUM") {
        Some(named) => Some(named.into()),
        None => BROWSERS.iter().find_map(|name| on_path(name)),
    };
    let browser = found.ok_or("no chromium")?;
    on_path("node").ok_or("no node")?;
    if !folder().join("node_modules/playwright-core").is_dir() {
        return Err("no playwright-core; run npm ci in crates/server/tests/browser");
    }
    Ok(browser)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let places = std::env::split_paths(&path).map(|folder| folder.join(program));
    places.into_iter().find(|place| place.is_file())
}

fn holds_what_it_says(browser: &Path) -> Result<(), Failed> {
    let place = tempfile::tempdir()?;
    for server in [common::usual(), common::remembering(place.path())] {
        page_holds(browser, &server, place.path())?;
    }
    Ok(())
}

fn page_holds(browser: &Path, server: &Running, place: &Path) -> Result<(), Failed> {
    let file = place.join("dropped.jpg");
    std::fs::write(&file, picture(64, 48, ImageFormat::Jpeg))?;
    let url = format!("http://{}", server.address);
    let output = Command::new("node")
        .current_dir(folder())
        .args(["page.mjs", &url, ""])
        .arg(&file)
        .env("CHROMIUM", browser)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(String::from_utf8_lossy(&text).into_owned().into())
}
