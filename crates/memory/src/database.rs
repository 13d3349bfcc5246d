//! A connection to a PostgreSQL database that is made anew where it was lost.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use postgres::config::Host;
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};

use crate::MemoryError;
use crate::error::{AWAY, PAUSE};

/// The memory that an address without `#name` means.
const USUAL: &str = "default";
/// The longest name, so that the table's, which has 23 characters more, is one that PostgreSQL does not cut.
const LONGEST: usize = 40;
const CONNECT: Duration = Duration::from_secs(2);
/// What takes longer than this has failed.
const STATEMENT_MS: u32 = 5000;

/// A database, and which of its memories is meant.
pub struct Database {
    /// The memory's name.
    pub name: String,
    address: String,
    config: Config,
    connection: Mutex<Connection>,
}

#[derive(Default)]
struct Connection {
    client: Option<Client>,
    failed: Option<Instant>,
}

impl Database {
    /// What the address says, without asking the database: `postgres://user:password@host:port/database#name`.
    ///
    /// # Errors
    ///
    /// Where it is no such address.
    pub fn at(address: &str) -> Result<Self, MemoryError> {
        let (database, name) = address.split_once('#').unwrap_or((address, USUAL));
        let first_is_letter = name.starts_with(|first: char| first.is_ascii_lowercase());
        let are_plain = name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !first_is_letter || !are_plain || name.len() > LONGEST {
            return Err(MemoryError::Address {
                address: format!("#{name}"),
                reason: format!(
                    "expected a memory's name behind the database's address, as in #pets: a small letter, then small \
                     letters, digits and underscores, {LONGEST} at most"
                ),
            });
        }
        let mut config = Config::from_str(database).map_err(|error| MemoryError::Address {
            // The address may hold a password.
            address: "postgres://".into(),
            reason: format!(
                "is no address of a database ({}): expected postgres://user@host/database#name",
                in_words(&error)
            ),
        })?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        config.tcp_user_timeout(Duration::from_millis(STATEMENT_MS.into()));
        // What the address says comes after it, and holds.
        let own = config.get_options().unwrap_or_default();
        config.options(&format!("-c statement_timeout={STATEMENT_MS} {own}"));
        Ok(Self {
            address: format!("{}#{name}", without_password(&config)),
            config,
            name: name.to_string(),
            connection: Mutex::default(),
        })
    }

    /// Does something with the database. Where the connection was lost, it is made anew, once.
    pub fn with<T>(
        &self,
        act: impl Fn(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, MemoryError> {
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let was_open = connection.client.is_some();
        match self.once(&mut connection, &act) {
            Err(_) if was_open && connection.client.is_none() => {
                connection.failed = None;
                self.once(&mut connection, &act)
            }
            found => found,
        }
    }

    fn once<T>(
        &self,
        connection: &mut Connection,
        act: impl Fn(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, MemoryError> {
        if connection.failed.is_some_and(|at| at.elapsed() < PAUSE) {
            return Err(self.away(AWAY));
        }
        if connection.client.is_none() {
            match self.config.connect(NoTls) {
                Ok(client) => connection.client = Some(client),
                Err(error) => {
                    connection.failed = Some(Instant::now());
                    return Err(self.refused(&error));
                }
            }
        }
        let Some(client) = &mut connection.client else {
            return Err(self.away(AWAY));
        };
        let found = act(client);
        if client.is_closed() {
            connection.client = None;
            connection.failed = Some(Instant::now());
        } else {
            connection.failed = None;
        }
        found.map_err(|error| self.failure(&in_words(&error)))
    }

    /// Why there is no connection. Where the database itself says no, time does not mend it, unless it is about to start.
    fn refused(&self, error: &postgres::Error) -> MemoryError {
        let code = error.code();
        if code.is_some() && code != Some(&SqlState::CANNOT_CONNECT_NOW) {
            return self.failure(&in_words(error));
        }
        self.away(&in_words(error))
    }

    fn away(&self, reason: &str) -> MemoryError {
        MemoryError::Away {
            address: self.address.clone(),
            reason: reason.to_string(),
        }
    }

    /// What went wrong with it.
    pub fn failure(&self, reason: &str) -> MemoryError {
        MemoryError::Database {
            address: self.address.clone(),
            reason: reason.to_string(),
        }
    }
}

/// The address as people may read it.
fn without_password(config: &Config) -> String {
    let user = config
        .get_user()
        .map_or(String::new(), |user| format!("{user}@"));
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(host) => host.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    });
    let ports = config.get_ports().iter();
    let ports = ports
        .map(|port| format!(":{port}"))
        .chain(std::iter::repeat(String::new()));
    let hosts: Vec<String> = hosts.zip(ports).map(|(host, port)| host + &port).collect();
    let database = config.get_dbname().unwrap_or_default();
    format!("postgres://{user}{}/{database}", hosts.join(","))
}

/// What went wrong; the database's own words say more than the library's.
fn in_words(error: &postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return said.message().to_string();
    }
    let cause = std::error::Error::source(error);
    cause.map_or(error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_no_password_and_a_name_is_plain() {
        let pets = Database::at("postgres://me:secret@db.example/things#pets").unwrap();
        assert_eq!(pets.address, "postgres://me@db.example:5432/things#pets");
        assert_eq!(pets.name, "pets");
        let usual = Database::at("postgres://db.example/things").unwrap();
        assert_eq!(usual.name, "default");
        for name in ["", "Pets", "1st", "a;b", "a-b", &"a".repeat(41)] {
            let address = format!("postgres://db.example/things#{name}");
            let error = Database::at(&address).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains("small letter"), "{name}");
        }
        let error = Database::at("postgres://me:secret@db:port/x").map(|_| ());
        assert!(!error.unwrap_err().to_string().contains("secret"));
    }

    #[test]
    fn a_database_that_is_away_is_asked_again_only_after_a_pause() {
        let away = Database::at("postgres://me@127.0.0.1:1/x").unwrap();
        let ask = || away.with(|client| client.query_one("SELECT 1", &[]));
        let error = ask().unwrap_err().to_string();
        assert!(error.contains("127.0.0.1"), "{error}");
        let begun = Instant::now();
        let error = ask().unwrap_err().to_string();
        assert!(error.contains("the database is away"), "{error}");
        assert!(begun.elapsed() < Duration::from_millis(100));
    }
}
