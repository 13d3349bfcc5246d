//! A PostgreSQL server of a test's own, in a temporary folder.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Failed;
use tempfile::TempDir;

/// PostgreSQL does not run as root; then this user runs it.
const NOBODY: u32 = 65534;

/// Where the server's programs are.
#[derive(Clone)]
pub struct Programs(PathBuf);

impl Programs {
    /// Those of a server with pgvector, or what is missing.
    pub fn find() -> Result<Self, &'static str> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/postgres");
        let mut places = vec![target.join("pgserver/pginstall/bin")];
        if let Some(named) = std::env::var_os("POSTGRES_BIN") {
            places.insert(0, named.into());
        }
        if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
            places.extend(versions.flatten().map(|version| version.path().join("bin")));
        }
        places.retain(|place| place.join("initdb").is_file());
        if places.is_empty() {
            return Err("no PostgreSQL server");
        }
        let found = places.into_iter().map(Self).find(Self::has_vectors);
        let found = found.ok_or("no PostgreSQL server with pgvector")?;
        let works = found.command("initdb").arg("--version").output();
        if works.is_ok_and(|output| output.status.success()) {
            Ok(found)
        } else {
            Err("the PostgreSQL server's programs do not start")
        }
    }

    fn has_vectors(&self) -> bool {
        let output = self.command("pg_config").arg("--sharedir").output();
        let Ok(output) = output else { return false };
        let folder = String::from_utf8_lossy(&output.stdout);
        let folder = Path::new(folder.trim()).join("extension");
        folder.join("vector.control").is_file()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.0.join(program));
        if nix::unistd::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.current_dir("/");
        command
    }
}

/// A running server; it ends with the test.
pub struct Server {
    programs: Programs,
    folder: TempDir,
    port: u16,
}

impl Server {
    /// Creates a database and serves it.
    pub fn start(programs: &Programs) -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY))?;
        }
        let server = Self {
            programs: programs.clone(),
            port: TcpListener::bind("127.0.0.1:0")?.local_addr()?.port(),
            folder,
        };
        let data = server.data();
        server.run(
            "initdb",
            &["-D", &data, "-U", "tester", "-A", "trust", "--no-sync"],
        )?;
        let settings = format!(
            "\nlisten_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\n",
            server.port,
            server.folder.path().display()
        );
        let path = Path::new(&data).join("postgresql.conf");
        let mut file = std::fs::OpenOptions::new().append(true).open(path)?;
        file.write_all(settings.as_bytes())?;
        server.pg_ctl("start")?;
        Ok(server)
    }

    /// The address of one of its memories.
    pub fn address(&self, memory: &str) -> String {
        format!(
            "postgres://tester@127.0.0.1:{}/postgres#{memory}",
            self.port
        )
    }

    /// Ends it; its data stay.
    pub fn stop(&self) {
        self.pg_ctl("stop").unwrap();
    }

    /// Serves the same data again.
    pub fn start_again(&self) {
        self.pg_ctl("start").unwrap();
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn pg_ctl(&self, what: &str) -> Result<(), Failed> {
        let log = self.folder.path().join("log").display().to_string();
        let data = self.data();
        self.run(
            "pg_ctl",
            &[what, "-D", &data, "-l", &log, "-m", "fast", "-w"],
        )
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<(), Failed> {
        // A server that goes on holds what it inherits: not the test's own output.
        let log = std::fs::File::create(self.folder.path().join("said"))?;
        let status = self
            .programs
            .command(program)
            .args(args)
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()?;
        if status.success() {
            return Ok(());
        }
        let said = std::fs::read_to_string(self.folder.path().join("said"))?;
        Err(format!("{program} ended with {status}: {said}").into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.pg_ctl("stop");
    }
}
