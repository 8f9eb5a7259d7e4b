//! Owns what a component says about itself: the contracts it exports and imports, read from its bytes.
//!
//! Reading needs no engine and runs no code, so `cleave check` and a node that does not run the module know the same.
//! What cannot be a contract is refused here, with the function named: resources, streams and futures, `async`
//! functions, types nested too deeply.

use crate::types::{Case, DEPTH_MAX, FailurePlace, Field, Function, KeyPlace, Name, Type};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use wit_parser::decoding::DecodedWasm;
use wit_parser::{Handle, InterfaceId, Resolve, TypeDefKind, TypeId, TypeOwner, WorldItem, WorldKey};

/// The interface that owns `failure`, up to the version.
const FAILURE_OWNER: &str = "cleave:call/types@";
/// The interface that owns the `error` of events, up to the version.
const EVENT_ERROR_OWNER: &str = "cleave:events/types@";
/// The interface that a module with schedules exports, up to the version.
const TASK: &str = "cleave:schedule/task@";
/// The type of its one function.
const TASK_SIGNATURE: &str = "func(task: string) -> result<_, string>";

/// An interface as one module exports or imports it.
#[derive(Debug, Clone)]
pub struct Contract {
    /// The name with its version, `shop:catalog/products@0.1.0`.
    pub name: String,
    /// The name with as much of the version as must agree, `shop:catalog/products@0.1`.
    pub track: String,
    /// Its functions by name. An import has those that the module uses.
    pub functions: BTreeMap<String, Arc<Function>>,
    /// Its place in the WIT it was read from.
    pub id: InterfaceId,
}

/// What a component exports and imports.
#[derive(Debug, Clone, Default)]
pub struct Interface {
    /// Contracts that others call.
    pub exports: Vec<Contract>,
    /// Contracts that it calls.
    pub imports: Vec<Contract>,
    /// Event contracts that it handles.
    pub handles: Vec<Contract>,
    /// Event contracts that it publishes.
    pub publishes: Vec<Contract>,
    /// `cleave:schedule/task`, if it does work by the clock.
    pub task: Option<Contract>,
    /// Imports from the host: `cleave:…` and `wasi:…`, with their versions.
    pub host_imports: Vec<String>,
    /// The WIT that all this was read from.
    pub wit: Arc<Resolve>,
}

impl Interface {
    /// Everything it exports that the host calls, in the order of the functions' places.
    pub fn exported(&self) -> impl Iterator<Item = &Contract> {
        self.exports.iter().chain(&self.handles).chain(&self.task)
    }

    /// The application's own contracts that it exports, handles or publishes.
    pub fn contracts(&self) -> impl Iterator<Item = &Contract> {
        self.exports.iter().chain(&self.handles).chain(&self.publishes)
    }

    /// The function that does what is due by the clock.
    pub fn task(&self) -> Option<&Arc<Function>> {
        self.task.as_ref()?.functions.values().next()
    }

    /// Whether it has an outbox or an inbox, and so a database whatever it is granted.
    pub fn has_events(&self) -> bool {
        !self.handles.is_empty() || !self.publishes.is_empty()
    }
}

/// Whether a contract of this name is one of events: its interface is named `events` or ends in `-events`.
pub fn is_event_contract(name: &str) -> bool {
    let unversioned = name.split_once('@').map_or(name, |(unversioned, _)| unversioned);
    let interface = unversioned.rsplit_once('/').map_or(unversioned, |(_, interface)| interface);
    interface == "events" || interface.ends_with("-events")
}

/// The most parts of a function's type with every named type written out: a chain of records that each hold the one
/// before twice doubles with every link.
const TYPE_PARTS_MAX: usize = 10_000;

/// Why a component cannot be a module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    #[error("the file is not WebAssembly")]
    NotWasm,
    #[error("the file is a core module, not a component")]
    CoreModule,
    #[error("the file is a WIT package, not a component")]
    WitPackage,
    #[error("the component cannot be read: {0}")]
    Malformed(String),
    #[error("`{function}` has {what} in its type; between modules go plain values only")]
    NotPlain { function: String, what: String },
    #[error("`{function}` is `async`; contracts have plain functions only")]
    Async { function: String },
    #[error("`{function}` has a type nested more than {DEPTH_MAX} deep")]
    TooDeep { function: String },
    #[error("`{function}` has a type of more than {TYPE_PARTS_MAX} parts")]
    TooLarge { function: String },
    #[error("`{function}` has two cases for a failed call; at most one case `failed(failure)` may hold it")]
    TwoFailures { function: String },
    #[error("`{function}` calls the case for a failed call `{case}`; it must be `failed`")]
    FailureName { function: String, case: String },
    #[error(
        "the event `{event}` returns {found}; events return `result<_, error>` with the error of `cleave:events/types`"
    )]
    EventResult { event: String, found: String },
    #[error("the event `{event}` has no key: no parameter is a scalar, and no field of its first record")]
    EventKey { event: String },
    #[error("the component exports `{0}` with a type that this host does not know")]
    Task(String),
    #[error("the component imports `{0}`, which is not a function of an interface")]
    WorldImport(String),
}

impl ModuleError {
    /// What to do about it.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::NotWasm | Self::Malformed(_) => "build the component again with `cleave build`",
            Self::CoreModule => {
                "build for the target wasm32-wasip2, or make a component of it with `wasm-tools component new`"
            }
            Self::WitPackage => "name the component that implements it",
            Self::NotPlain { .. } => "pass an identifier and plain values instead",
            Self::Async { .. } => "declare it as a plain `func`",
            Self::TooDeep { .. } | Self::TooLarge { .. } => "flatten the type, or split it in two functions",
            Self::TwoFailures { .. } => "leave one of them out",
            Self::FailureName { .. } => "rename the case to `failed`",
            Self::EventResult { .. } => {
                "declare it so, with `use cleave:events/types@0.1.0.{error};`, or give the interface a name that is not \
                 of events"
            }
            Self::EventKey { .. } => {
                "add a first parameter or field of a scalar type, such as the identity of what the event is about"
            }
            Self::Task(_) => "build it against `wit/cleave/schedule` of this host",
            Self::WorldImport(_) => "declare it in an interface, and import that",
        }
    }
}

/// Reads the interface of a component.
pub fn read(bytes: &[u8]) -> Result<Interface, ModuleError> {
    match bytes {
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => return Err(ModuleError::CoreModule),
        [b'\0', b'a', b's', b'm', ..] => {}
        _ => return Err(ModuleError::NotWasm),
    }
    let decoded =
        wit_parser::decoding::decode(bytes).map_err(|e| ModuleError::Malformed(format!("{e:#}")))?;
    let DecodedWasm::Component(resolve, world) = decoded else { return Err(ModuleError::WitPackage) };
    let mut interface = Interface::default();
    let world = resolve.worlds.get(world).ok_or(ModuleError::WitPackage)?;
    for (key, item) in &world.imports {
        let name = resolve.name_world_key(key);
        match item {
            WorldItem::Interface { .. } if is_host(&name) => interface.host_imports.push(name),
            WorldItem::Interface { id, .. } if is_event_contract(&name) => {
                // Why: a `use` of the contract's types leaves an import without functions, which publishes nothing.
                let contract = event_contract(&resolve, key, *id)?;
                if !contract.functions.is_empty() {
                    interface.publishes.push(contract);
                }
            }
            WorldItem::Interface { id, .. } => interface.imports.push(contract(&resolve, key, *id)?),
            WorldItem::Function(_) => return Err(ModuleError::WorldImport(name)),
            WorldItem::Type { .. } => {}
        }
    }
    for (key, item) in &world.exports {
        // Why: an interface that no package owns is some tool's own, and nobody can import it.
        let (WorldItem::Interface { id, .. }, WorldKey::Interface(_)) = (item, key) else { continue };
        let name = resolve.name_world_key(key);
        if name.starts_with(TASK) {
            interface.task = Some(task_contract(&resolve, key, *id)?);
        } else if is_host(&name) {
        } else if is_event_contract(&name) {
            interface.handles.push(event_contract(&resolve, key, *id)?);
        } else {
            interface.exports.push(contract(&resolve, key, *id)?);
        }
    }
    let exported = interface.exports.iter_mut().chain(&mut interface.handles).chain(&mut interface.task);
    for (place, function) in exported.flat_map(|contract| contract.functions.values_mut()).enumerate() {
        Arc::make_mut(function).place = place;
    }
    interface.wit = Arc::new(resolve);
    Ok(interface)
}

/// Whether an interface belongs to the host or the platform, and so is never a contract between modules.
fn is_host(name: &str) -> bool {
    name.starts_with("cleave:") || name.starts_with("wasi:")
}

/// Reads a contract from WIT.
pub fn contract(resolve: &Resolve, key: &WorldKey, id: InterfaceId) -> Result<Contract, ModuleError> {
    let name = resolve.name_world_key(key);
    let track = resolve.name_canonicalized_world_key(key);
    let interface =
        resolve.interfaces.get(id).ok_or_else(|| ModuleError::Malformed(format!("`{name}` is missing")))?;
    let functions = interface
        .functions
        .values()
        .map(|f| Ok((f.name.clone(), Arc::new(function(resolve, &name, f)?))))
        .collect::<Result<BTreeMap<_, _>, ModuleError>>()?;
    // Why: a resource is a danger even if no function that is left mentions it.
    if let Some((resource, _)) = interface.types.iter().find(|(_, id)| is_resource(resolve, **id)) {
        return Err(ModuleError::NotPlain {
            function: format!("{name}.{resource}"),
            what: format!("resource `{resource}`"),
        });
    }
    Ok(Contract { name, track, functions, id })
}

/// A contract whose functions are events: each of the one result type, each with a key.
fn event_contract(resolve: &Resolve, key: &WorldKey, id: InterfaceId) -> Result<Contract, ModuleError> {
    let mut contract = contract(resolve, key, id)?;
    let declared = resolve.interfaces.get(id).map(|interface| &interface.functions);
    for (name, function) in &mut contract.functions {
        let event = || function.address.clone();
        let returned = declared.and_then(|functions| functions.get(name)).and_then(|f| f.result.as_ref());
        if !returned.is_some_and(|ty| is_event_result(resolve, ty)) {
            let found = function.result.as_ref().map_or("nothing".to_owned(), |ty| format!("`{ty}`"));
            return Err(ModuleError::EventResult { event: event(), found });
        }
        let key = KeyPlace::find(&function.parameters);
        let key = key.ok_or_else(|| ModuleError::EventKey { event: event() })?;
        Arc::make_mut(function).key = Some(key);
    }
    Ok(contract)
}

/// `cleave:schedule/task` as this host knows it.
fn task_contract(resolve: &Resolve, key: &WorldKey, id: InterfaceId) -> Result<Contract, ModuleError> {
    let contract = contract(resolve, key, id)?;
    let known = contract.functions.get("run").is_some_and(|run| run.signature() == TASK_SIGNATURE);
    if known && contract.functions.len() == 1 { Ok(contract) } else { Err(ModuleError::Task(contract.name)) }
}

fn is_event_result(resolve: &Resolve, ty: &wit_parser::Type) -> bool {
    let Some(TypeDefKind::Result(result)) = kind(resolve, ty) else { return false };
    let error = result.err.as_ref();
    result.ok.is_none() && error.is_some_and(|error| is_owned(resolve, error, EVENT_ERROR_OWNER, "error"))
}

fn is_resource(resolve: &Resolve, id: TypeId) -> bool {
    resolve.types.get(id).is_some_and(|t| matches!(t.kind, TypeDefKind::Resource))
}

fn function(resolve: &Resolve, contract: &str, f: &wit_parser::Function) -> Result<Function, ModuleError> {
    let reader = Reader { resolve, function: format!("{contract}.{}", f.name), parts: Cell::new(0) };
    if f.kind.is_async() {
        return Err(ModuleError::Async { function: reader.function });
    }
    let parameters = f
        .params
        .iter()
        .map(|p| Ok(Field { name: Name::new(&p.name), ty: reader.ty(&p.ty, 1)? }))
        .collect::<Result<Vec<_>, ModuleError>>()?;
    let result = f.result.as_ref().map(|t| reader.ty(t, 1)).transpose()?;
    let failure = f.result.as_ref().map(|t| reader.failure_place(t)).transpose()?.flatten();
    Ok(Function::new(contract, &f.name, parameters, result, failure))
}

/// Reads the types of one function.
struct Reader<'a> {
    resolve: &'a Resolve,
    function: String,
    parts: Cell<usize>,
}

impl Reader<'_> {
    fn ty(&self, ty: &wit_parser::Type, depth: usize) -> Result<Type, ModuleError> {
        use wit_parser::Type as Wit;
        if depth > DEPTH_MAX {
            return Err(ModuleError::TooDeep { function: self.function.clone() });
        }
        self.parts.set(self.parts.get() + 1);
        if self.parts.get() > TYPE_PARTS_MAX {
            return Err(ModuleError::TooLarge { function: self.function.clone() });
        }
        Ok(match ty {
            Wit::Bool => Type::Bool,
            Wit::S8 => Type::S8,
            Wit::U8 => Type::U8,
            Wit::S16 => Type::S16,
            Wit::U16 => Type::U16,
            Wit::S32 => Type::S32,
            Wit::U32 => Type::U32,
            Wit::S64 => Type::S64,
            Wit::U64 => Type::U64,
            Wit::F32 => Type::F32,
            Wit::F64 => Type::F64,
            Wit::Char => Type::Char,
            Wit::String => Type::String,
            Wit::Id(id) => self.named(*id, depth)?,
            other => return Err(self.not_plain(&format!("{other:?}"))),
        })
    }

    fn named(&self, id: TypeId, depth: usize) -> Result<Type, ModuleError> {
        let def = self.resolve.types.get(id).ok_or_else(|| self.not_plain("an unknown type"))?;
        let inner = |ty: &wit_parser::Type| self.ty(ty, depth + 1);
        let optional =
            |ty: &Option<wit_parser::Type>| ty.as_ref().map(|t| inner(t).map(Arc::new)).transpose();
        Ok(match &def.kind {
            TypeDefKind::Type(ty) => self.ty(ty, depth)?,
            TypeDefKind::List(item) => Type::List(Arc::new(inner(item)?)),
            TypeDefKind::Option(ty) => Type::Option(Arc::new(inner(ty)?)),
            TypeDefKind::Result(result) => Type::Result(optional(&result.ok)?, optional(&result.err)?),
            TypeDefKind::Tuple(tuple) => {
                Type::Tuple(tuple.types.iter().map(inner).collect::<Result<_, _>>()?)
            }
            TypeDefKind::Record(record) => Type::Record(
                record
                    .fields
                    .iter()
                    .map(|f| Ok(Field { name: Name::new(&f.name), ty: inner(&f.ty)? }))
                    .collect::<Result<_, ModuleError>>()?,
            ),
            TypeDefKind::Variant(variant) => Type::Variant(
                variant
                    .cases
                    .iter()
                    .map(|c| Ok(Case { name: Name::new(&c.name), ty: c.ty.as_ref().map(inner).transpose()? }))
                    .collect::<Result<_, ModuleError>>()?,
            ),
            TypeDefKind::Enum(names) => Type::Enum(names.cases.iter().map(|c| Name::new(&c.name)).collect()),
            TypeDefKind::Flags(flags) => {
                Type::Flags(flags.flags.iter().map(|f| Name::new(&f.name)).collect())
            }
            TypeDefKind::Handle(Handle::Own(of) | Handle::Borrow(of)) => {
                let name = self.resolve.types.get(*of).and_then(|t| t.name.as_deref()).unwrap_or("?");
                return Err(self.not_plain(&format!("resource `{name}`")));
            }
            other => return Err(self.not_plain(&format!("a {}", other.as_str()))),
        })
    }

    fn not_plain(&self, what: &str) -> ModuleError {
        ModuleError::NotPlain { function: self.function.clone(), what: what.to_owned() }
    }

    /// Where a result of this type tells of a failed call.
    fn failure_place(&self, result: &wit_parser::Type) -> Result<Option<FailurePlace>, ModuleError> {
        let Some(TypeDefKind::Result(result)) = self.kind(result) else { return Ok(None) };
        let Some(error) = &result.err else { return Ok(None) };
        if self.is_failure(error) {
            return Ok(Some(FailurePlace::Whole));
        }
        let Some(TypeDefKind::Variant(variant)) = self.kind(error) else { return Ok(None) };
        let mut places = variant.cases.iter().filter(|c| c.ty.as_ref().is_some_and(|t| self.is_failure(t)));
        match (places.next(), places.next()) {
            (None, _) => Ok(None),
            (Some(_), Some(_)) => Err(ModuleError::TwoFailures { function: self.function.clone() }),
            (Some(case), None) if case.name == "failed" => Ok(Some(FailurePlace::Case(case.name.clone()))),
            (Some(case), None) => {
                Err(ModuleError::FailureName { function: self.function.clone(), case: case.name.clone() })
            }
        }
    }

    /// Whether a type is `failure` of `cleave:call/types`.
    fn is_failure(&self, ty: &wit_parser::Type) -> bool {
        is_owned(self.resolve, ty, FAILURE_OWNER, "failure")
    }

    /// What a type is made of, behind the names it goes by.
    fn kind(&self, ty: &wit_parser::Type) -> Option<&TypeDefKind> {
        kind(self.resolve, ty)
    }
}

/// What a type is made of, behind the names it goes by.
pub fn kind<'a>(resolve: &'a Resolve, ty: &wit_parser::Type) -> Option<&'a TypeDefKind> {
    let wit_parser::Type::Id(id) = ty else { return None };
    match &resolve.types.get(*id)?.kind {
        TypeDefKind::Type(alias) => kind(resolve, alias),
        kind => Some(kind),
    }
}

/// Whether a type, behind the names it goes by, is the one of this name that an interface of the host owns. Told by the
/// owner and not by the shape.
fn is_owned(resolve: &Resolve, ty: &wit_parser::Type, owner: &str, name: &str) -> bool {
    let wit_parser::Type::Id(id) = ty else { return false };
    let Some(def) = resolve.types.get(*id) else { return false };
    let owned = match def.owner {
        TypeOwner::Interface(id) => resolve.id_of(id).is_some_and(|id| id.starts_with(owner)),
        _ => false,
    };
    if owned && def.name.as_deref() == Some(name) {
        return true;
    }
    matches!(&def.kind, TypeDefKind::Type(alias) if is_owned(resolve, alias, owner, name))
}
