//! A memory in a PostgreSQL database with pgvector, shared by all programs that open it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgvector::Vector;
use postgres::Transaction;
use sha2::{Digest, Sha256};

use crate::database::Database;
use crate::entry::hexadecimal;
use crate::error::IS_THERE;
use crate::store::Store;
use crate::vote::ClassCounts;
use crate::{About, Entry, Label, MemoryError, Neighbor, Which};

/// Where all memories of a database are listed; each has a table of its own, whose name begins alike.
const MEMORIES: &str = "aptvit_memories";
const TABLE: &str = "aptvit_memory_";
/// The entries of each class are counted again after so long, and after changes by this program: what others add weighs in
/// votes as it did before until then.
const RECOUNT: Duration = Duration::from_secs(5);
/// pgvector searches at most so many entries of its graph.
const MOST_SEARCHED: usize = 1000;

/// A memory in a database. Every search asks the database, so that all programs see each other's changes at once.
///
/// Neighbours come from pgvector's graph (HNSW), which finds nearly all of the nearest entries; the index is left out
/// where pgvector is older than 0.5, and then the search is exact.
pub struct PostgresStore {
    database: Database,
    about: About,
    /// Where its entries are.
    table: String,
    counted: Mutex<Option<(Instant, ClassCounts)>>,
}

impl PostgresStore {
    /// Opens a memory of a database: `postgres://user:password@host:port/database#name`.
    ///
    /// # Errors
    ///
    /// Where the address is none, the database is away, or it has no such memory.
    pub fn open(address: &str) -> Result<Self, MemoryError> {
        let database = Database::at(address)?;
        let text = described(&database)?.ok_or_else(|| {
            database.failure("there is no such memory; `aptvit memory build` creates one")
        })?;
        let about = About::parse(&text).map_err(|reason| database.failure(&reason))?;
        Ok(Self::of(database, about, &text))
    }

    /// Checks that there is a place for a memory: the database answers, and has none of this name unless `replace`.
    ///
    /// # Errors
    ///
    /// Where that is not so.
    pub fn check_place(address: &str, replace: bool) -> Result<(), MemoryError> {
        let database = Database::at(address)?;
        if described(&database)?.is_some() && !replace {
            return Err(database.failure(IS_THERE));
        }
        Ok(())
    }

    /// Creates a memory, in place of one of the same name if `replace`.
    ///
    /// # Errors
    ///
    /// Where the database is away or has no pgvector, or there is a memory of that name.
    pub fn create(
        address: &str,
        about: About,
        entries: &[Entry],
        replace: bool,
    ) -> Result<Self, MemoryError> {
        let database = Database::at(address)?;
        let text = serde_json::to_string(&about);
        let text = text.map_err(|error| database.failure(&error.to_string()))?;
        let store = Self::of(database, about, &text);
        let (name, table) = (&store.database.name, &store.table);
        let width = store.about.width();
        let is_new = store.database.with(|client| {
            let mut change = client.transaction()?;
            change.batch_execute(&format!(
                "SET LOCAL statement_timeout = 0;
                 CREATE EXTENSION IF NOT EXISTS vector;
                 CREATE TABLE IF NOT EXISTS {MEMORIES} (name text PRIMARY KEY, about text NOT NULL)"
            ))?;
            if replace {
                let delete = format!("DELETE FROM {MEMORIES} WHERE name = $1 RETURNING about");
                if let Some(row) = change.query_opt(&delete, &[name])? {
                    let old = table_of(name, row.get(0));
                    change.batch_execute(&format!("DROP TABLE IF EXISTS {old}"))?;
                }
            }
            let insert = format!("INSERT INTO {MEMORIES} VALUES ($1, $2) ON CONFLICT DO NOTHING");
            if change.execute(&insert, &[name, &text])? == 0 {
                return Ok(false);
            }
            change.batch_execute(&format!(
                "CREATE TABLE {table} (id text PRIMARY KEY, class text NOT NULL, source text NOT NULL,
                     features vector({width}) NOT NULL)"
            ))?;
            insert_into(&mut change, table, entries)?;
            index(&mut change, table)?;
            change.commit()?;
            Ok(true)
        })?;
        if is_new {
            Ok(store)
        } else {
            Err(store.database.failure(IS_THERE))
        }
    }

    /// `text` is what the database says of the memory.
    fn of(database: Database, about: About, text: &str) -> Self {
        Self {
            table: table_of(&database.name, text),
            database,
            about,
            counted: Mutex::default(),
        }
    }

    fn recount(&self) {
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Store for PostgresStore {
    fn about(&self) -> &About {
        &self.about
    }

    fn add(&mut self, entries: Vec<Entry>) -> Result<(), MemoryError> {
        self.database.with(|client| {
            let mut change = client.transaction()?;
            insert_into(&mut change, &self.table, &entries)?;
            change.commit()
        })?;
        self.recount();
        Ok(())
    }

    fn remove(&mut self, which: &Which) -> Result<usize, MemoryError> {
        let (column, values) = match which {
            Which::Ids(ids) => ("id", ids.clone()),
            Which::Class(class) => ("class", vec![class.clone()]),
            Which::Source(source) => ("source", vec![source.clone()]),
        };
        let delete = format!("DELETE FROM {} WHERE {column} = ANY($1)", self.table);
        let removed = self
            .database
            .with(|client| client.execute(&delete, &[&values]))?;
        self.recount();
        Ok(removed as usize)
    }

    fn list(&self) -> Result<Vec<Label>, MemoryError> {
        let select = format!(
            "SELECT id, class, source FROM {} ORDER BY class COLLATE \"C\", source COLLATE \"C\", id",
            self.table
        );
        let rows = self.database.with(|client| client.query(&select, &[]))?;
        Ok(rows.iter().map(label).collect())
    }

    fn counts(&self) -> Result<ClassCounts, MemoryError> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, counts)) = &*counted
            && at.elapsed() < RECOUNT
        {
            return Ok(counts.clone());
        }
        let select = format!("SELECT class, count(*) FROM {} GROUP BY class", self.table);
        let rows = self.database.with(|client| client.query(&select, &[]))?;
        let rows = rows
            .iter()
            .map(|row| (row.get(0), row.get::<_, i64>(1) as usize));
        let counts: ClassCounts = rows.collect();
        *counted = Some((Instant::now(), counts.clone()));
        Ok(counts)
    }

    fn search_flops(&self) -> u64 {
        0
    }

    fn nearest(
        &self,
        features: &[Vec<f32>],
        count: usize,
    ) -> Result<Vec<Vec<Neighbor>>, MemoryError> {
        let select = format!(
            "SELECT id, class, source, 1 - (features <=> $1) FROM {} ORDER BY features <=> $1 LIMIT {count}",
            self.table
        );
        let searched = (2 * count).clamp(40, MOST_SEARCHED);
        self.database.with(|client| {
            client.batch_execute(&format!("SET hnsw.ef_search = {searched}"))?;
            let select = client.prepare(&select)?;
            let found = features.iter().map(|features| {
                let rows = client.query(&select, &[&Vector::from(features.clone())])?;
                let neighbor = |row: &postgres::Row| Neighbor {
                    label: label(row),
                    similarity: row.get::<_, f64>(3) as f32,
                };
                Ok(rows.iter().map(neighbor).collect())
            });
            found.collect()
        })
    }
}

/// The table of a memory's entries, by what it says of itself: who opened it before it was built anew finds its table gone,
/// instead of entries that it cannot compare.
fn table_of(name: &str, text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    format!("{TABLE}{name}_{}", hexadecimal(&digest[..4]))
}

/// What the memory says of itself, as JSON; none where there is no such memory.
fn described(database: &Database) -> Result<Option<String>, MemoryError> {
    database.with(|client| {
        let tables = client.query_one("SELECT to_regclass($1)::text", &[&MEMORIES])?;
        if tables.get::<_, Option<String>>(0).is_none() {
            return Ok(None);
        }
        let about = format!("SELECT about FROM {MEMORIES} WHERE name = $1");
        let row = client.query_opt(&about, &[&database.name])?;
        Ok(row.map(|row| row.get(0)))
    })
}

/// Adds entries; each takes the place of one with the same id.
fn insert_into(
    change: &mut Transaction<'_>,
    table: &str,
    entries: &[Entry],
) -> Result<(), postgres::Error> {
    let insert = change.prepare(&format!(
        "INSERT INTO {table} VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO UPDATE
         SET class = excluded.class, source = excluded.source, features = excluded.features"
    ))?;
    for Entry { label, features } in entries {
        let features = Vector::from(features.clone());
        change.execute(
            &insert,
            &[&label.id, &label.class, &label.source, &features],
        )?;
    }
    Ok(())
}

/// The index by which pgvector finds neighbours, where it has such an index.
fn index(change: &mut Transaction<'_>, table: &str) -> Result<(), postgres::Error> {
    let has_graphs = "SELECT count(*) FROM pg_am WHERE amname = 'hnsw'";
    if change.query_one(has_graphs, &[])?.get::<_, i64>(0) == 0 {
        return Ok(());
    }
    change.batch_execute(&format!(
        "CREATE INDEX ON {table} USING hnsw (features vector_cosine_ops)"
    ))
}

fn label(row: &postgres::Row) -> Label {
    Label {
        id: row.get(0),
        class: row.get(1),
        source: row.get(2),
    }
}
