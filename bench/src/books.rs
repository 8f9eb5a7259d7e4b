//! What a shop's databases show, read beside it: when everything ordered is done with, and that the books agree.
//!
//! Every module's tables are read where its node keeps them, by connections that the shop knows nothing of. The statements
//! are the same for SQLite and PostgreSQL.

use crate::http::PRODUCTS;
use crate::shop::NODES;
use rusqlite::OpenFlags;
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Lines of an order.
pub(crate) const LINES: usize = 3;
/// Pieces of each product at the start: more than are ever ordered.
pub(crate) const STOCK: i64 = 1_000_000;
/// Notifications of an order: that it is placed, and that it is shipped.
const NOTIFICATIONS: i64 = 2;
/// The pause between two looks at what is still to be done.
const LOOK: Duration = Duration::from_millis(5);
/// How long the last order of a round may take to be shipped.
const PATIENCE: Duration = Duration::from_secs(120);

/// The databases of a shop.
pub(crate) struct Books {
    /// Whose they are.
    pub(crate) name: String,
    pub(crate) place: Place,
}

/// Where they are.
pub(crate) enum Place {
    /// A file for each module, in one folder; this stands in its name before the module's.
    Files { data: PathBuf, prefix: String },
    /// A file for each module, in the folder of its node.
    Nodes { data: PathBuf },
    /// A schema for each module, in one PostgreSQL database.
    Schemas { url: String },
}

impl Books {
    /// The file of a module.
    pub(crate) fn file(&self, module: &str) -> PathBuf {
        match &self.place {
            Place::Files { data, prefix } => data.join(format!("{prefix}{module}.sqlite")),
            Place::Nodes { data } => {
                let (node, _) = NODES.iter().find(|(_, modules)| modules.contains(&module)).unwrap();
                data.join(node).join(format!("{module}.sqlite"))
            }
            Place::Schemas { .. } => unreachable!("a schema has no file of its own"),
        }
    }

    fn open(&self, module: &str) -> Book {
        if let Place::Schemas { url } = &self.place {
            return Book::Schema(schema(url, module, 1));
        }
        let connection =
            rusqlite::Connection::open_with_flags(self.file(module), OpenFlags::SQLITE_OPEN_READ_ONLY)
                .unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        Book::File(connection)
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch {
            name: self.name.clone(),
            orders: self.open("orders"),
            inventory: self.open("inventory"),
            shipping: self.open("shipping"),
            notifications: self.open("notifications"),
        }
    }

    /// They must show these orders: each confirmed, charged its price, taken from the stock, shipped as ordered and told of.
    pub(crate) async fn check(&self, placed: usize) {
        let placed = placed as i64;
        let books = [
            ("orders", "SELECT count(*) FROM orders WHERE status = 'confirmed'", placed),
            ("orders", "SELECT count(*) FROM orders", placed),
            ("orders", "SELECT count(*) FROM order_lines", placed * LINES as i64),
            ("orders", "SELECT count(*) FROM cleave_outbox", 0),
            ("payments", "SELECT count(*) FROM charges WHERE status = 'charged'", placed),
            ("inventory", "SELECT count(*) FROM reservations WHERE state = 'sold'", placed),
            ("inventory", "SELECT CAST(sum(reserved) AS BIGINT) FROM stock", 0),
            ("inventory", "SELECT CAST(sum(available + sold) AS BIGINT) FROM stock", PRODUCTS as i64 * STOCK),
            ("inventory", "SELECT count(*) FROM cleave_inbox WHERE state = 2", placed),
            ("shipping", "SELECT count(*) FROM shipments", placed),
            ("shipping", "SELECT count(*) FROM shipment_lines", placed * LINES as i64),
            ("shipping", "SELECT count(*) FROM cleave_inbox WHERE state = 2", placed),
            ("shipping", "SELECT count(*) FROM cleave_outbox", 0),
            ("notifications", "SELECT count(*) FROM notifications WHERE kind = 'order-placed'", placed),
            ("notifications", "SELECT count(*) FROM notifications", placed * NOTIFICATIONS),
            ("notifications", "SELECT count(*) FROM cleave_inbox WHERE state = 2", placed * NOTIFICATIONS),
        ];
        for (module, sql, expected) in books {
            assert_eq!(self.open(module).count(sql).await, expected, "{}: {sql}", self.name);
        }
        let same = [
            [
                ("orders", "SELECT CAST(sum(total_cents) AS BIGINT) FROM orders"),
                ("payments", "SELECT CAST(sum(amount_cents) AS BIGINT) FROM charges"),
            ],
            [
                ("orders", "SELECT CAST(sum(quantity) AS BIGINT) FROM order_lines"),
                ("inventory", "SELECT CAST(sum(sold) AS BIGINT) FROM stock"),
            ],
            [
                ("orders", "SELECT CAST(sum(quantity * (number + 1)) AS BIGINT) FROM order_lines"),
                ("shipping", "SELECT CAST(sum(quantity * (number + 1)) AS BIGINT) FROM shipment_lines"),
            ],
        ];
        for [(module, sql), (other, other_sql)] in same {
            let counted = self.open(module).count(sql).await;
            let counted_there = self.open(other).count(other_sql).await;
            assert_eq!(counted, counted_there, "{}: {sql}; {other_sql}", self.name);
        }
    }
}

/// Connections to a module's schema, as a user who may do everything.
pub(crate) fn schema(url: &str, module: &str, connections: u32) -> PgPool {
    let options: PgConnectOptions = url.parse().unwrap();
    let options = options.options([
        ("search_path", format!("cleave${module}")),
        ("default_transaction_isolation", "serializable".to_owned()),
    ]);
    // Why no test: it would be one more round trip for each statement, which the host does not make.
    let pool = PgPoolOptions::new().max_connections(connections).test_before_acquire(false);
    pool.connect_lazy_with(options)
}

/// What a module keeps.
enum Book {
    File(rusqlite::Connection),
    Schema(PgPool),
}

impl Book {
    /// What a statement counts; nothing is 0.
    async fn count(&self, sql: &str) -> i64 {
        let counted: Option<i64> = match self {
            Self::File(file) => file.prepare_cached(sql).unwrap().query_row([], |row| row.get(0)).unwrap(),
            Self::Schema(pool) => {
                sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(pool).await.unwrap()
            }
        };
        counted.unwrap_or_default()
    }
}

/// Connections to the books that tell when everything ordered is done with.
pub(crate) struct Watch {
    name: String,
    orders: Book,
    inventory: Book,
    shipping: Book,
    notifications: Book,
}

impl Watch {
    /// Waits until so many orders are sold, shipped and told of, and no event of theirs is left.
    pub(crate) async fn done(&self, orders: usize) {
        let began = Instant::now();
        while !self.is_done(orders as i64).await {
            assert!(began.elapsed() < PATIENCE, "{}: not every order is done with", self.name);
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn is_done(&self, orders: i64) -> bool {
        // Why by the last number and not by a count: so that looking costs the same however many there are.
        let arrived = "SELECT max(position) FROM cleave_inbox";
        // Why the last first: it is the last to come true, and the rest need not be counted until then.
        for (book, events) in [
            (&self.notifications, orders * NOTIFICATIONS),
            (&self.shipping, orders),
            (&self.inventory, orders),
        ] {
            let is_open = "SELECT count(*) FROM cleave_inbox WHERE state <= 1";
            if book.count(arrived).await < events || book.count(is_open).await > 0 {
                return false;
            }
        }
        let leaving = "SELECT count(*) FROM cleave_outbox_to";
        self.orders.count(leaving).await == 0 && self.shipping.count(leaving).await == 0
    }
}
