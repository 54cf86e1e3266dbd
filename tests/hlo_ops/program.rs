//! Many cases in one module: each has parameters and results of its own, and one compilation serves
//! them all.

use gemma_xla::pjrt::{Buffer, Client, Executable, ExecuteOptions};
use hlo::{Builder, Literal, Module, Result, Value};

use crate::host::difference;
use crate::plugins::{clients, options};

/// A module that is being filled with cases.
pub struct Program {
    name: &'static str,
    builder: Builder,
    /// For each replica its arguments.
    arguments: Vec<Vec<Literal>>,
    results: Vec<Value>,
    /// For each result the case that it is of, and what it must be on each replica.
    expected: Vec<(String, Vec<Literal>)>,
}

impl Program {
    /// A program for one device.
    pub fn new(name: &'static str) -> Self {
        Self::replicated(name, 1)
    }

    /// A program that runs on several devices at once.
    pub fn replicated(name: &'static str, replicas: usize) -> Self {
        Self {
            name,
            builder: Builder::new("main"),
            arguments: vec![Vec::new(); replicas],
            results: Vec::new(),
            expected: Vec::new(),
        }
    }

    /// Adds what `build` makes of the arguments, which must come to `expected`.
    pub fn case<const N: usize>(
        &mut self,
        name: &str,
        arguments: [Literal; N],
        expected: Literal,
        build: impl FnOnce(&Builder, [Value; N]) -> Result<Value>,
    ) {
        self.cases(name, arguments, [expected], |b, x| Ok([build(b, x)?]));
    }

    /// [`Program::case`] with several results.
    pub fn cases<const N: usize, const M: usize>(
        &mut self,
        name: &str,
        arguments: [Literal; N],
        expected: [Literal; M],
        build: impl FnOnce(&Builder, [Value; N]) -> Result<[Value; M]>,
    ) {
        self.replicas(name, vec![arguments], vec![expected], build);
    }

    /// [`Program::cases`] with arguments and results for each replica.
    pub fn replicas<const N: usize, const M: usize>(
        &mut self,
        name: &str,
        arguments: Vec<[Literal; N]>,
        expected: Vec<[Literal; M]>,
        build: impl FnOnce(&Builder, [Value; N]) -> Result<[Value; M]>,
    ) {
        assert_eq!(arguments.len(), self.arguments.len(), "{name}");
        assert_eq!(expected.len(), self.arguments.len(), "{name}");
        let b = &self.builder;
        let parameters = std::array::from_fn(|i| {
            b.parameter(&format!("{name} {i}"), arguments[0][i].shape())
                .expect("parameters may be of any shape")
        });
        let results = b
            .scoped(name, || build(b, parameters))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        self.results.extend(results);
        for i in 0..M {
            let each = expected.iter().map(|list| list[i].clone()).collect();
            self.expected.push((name.to_owned(), each));
        }
        for (all, own) in self.arguments.iter_mut().zip(arguments) {
            all.extend(own);
        }
    }

    /// Compiles and runs the program on every plugin, and fails with all the cases that did not
    /// come to what they must.
    pub fn run(self) {
        let b = self.builder;
        let root = b.tuple(&self.results).expect("a tuple takes anything");
        let module = Module::new(self.name, b.finish(root).expect("the root is in it"));
        let mut wrong = Vec::new();
        for (plugin, client) in clients() {
            let executable = compile(plugin, client, &module, self.arguments.len());
            let arguments = upload(&executable, &self.arguments);
            let results = execute(plugin, &executable, &arguments);
            for (replica, results) in results.iter().enumerate() {
                assert_eq!(results.len(), self.expected.len(), "{plugin}: results");
                for (result, (case, expected)) in results.iter().zip(&self.expected) {
                    if let Some(difference) = difference(&download(result), &expected[replica]) {
                        wrong.push(format!("{plugin}, replica {replica}, {case}: {difference}"));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{}:\n{}", self.name, wrong.join("\n"));
    }
}

/// The module, compiled for so many replicas.
pub fn compile(plugin: &str, client: &Client, module: &Module, replicas: usize) -> Executable {
    client
        .compile(&module.serialize(), &options(replicas))
        .unwrap_or_else(|error| panic!("{plugin}: {}: {error}", module.name()))
}

/// Each replica's arguments on its device.
pub fn upload(executable: &Executable, arguments: &[Vec<Literal>]) -> Vec<Vec<Buffer>> {
    let devices = executable.addressable_devices();
    assert_eq!(devices.len(), arguments.len(), "devices");
    let upload = |literal: &Literal, device| {
        let dims = &literal.shape().dims;
        Buffer::from_host(device, literal.bytes(), dims, literal.element_type())
            .expect("the device takes the argument")
    };
    let lists = arguments.iter().zip(devices);
    lists
        .map(|(list, device)| list.iter().map(|literal| upload(literal, device)).collect())
        .collect()
}

/// Each replica's results.
pub fn execute(
    plugin: &str,
    executable: &Executable,
    arguments: &[Vec<Buffer>],
) -> Vec<Vec<Buffer>> {
    let lists: Vec<Vec<&Buffer>> = arguments.iter().map(|list| list.iter().collect()).collect();
    executable
        .execute(&lists, &ExecuteOptions::default())
        .unwrap_or_else(|error| panic!("{plugin}: {error}"))
}

/// What a buffer holds.
pub fn download(buffer: &Buffer) -> Literal {
    let bytes = buffer.to_host_vec().expect("the result can be read");
    Literal::from_bytes(buffer.element_type(), buffer.dims(), bytes).expect("the bytes fit")
}
