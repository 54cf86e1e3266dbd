//! Running programs.

use gemma_xla::pjrt::{
    Buffer, CompileOptions, Error, ExecuteOptions, HostBuffer, HostData, Plugin, TransferOptions,
};
use hlo::{AliasKind, BinaryOp, Computation, ElementType};

use crate::support::{client, compile, doubling, f32_bytes, first, module, on_both_plugins, send};

on_both_plugins! {
    replicas_exchange_data_on_four_devices
    a_device_assignment_says_which_device_runs_which_replica
    a_tuple_comes_back_as_its_leaves
    a_donated_buffer_is_consumed
    a_buffer_that_may_not_be_donated_is_kept
    argument_lists_must_match_the_devices
    arguments_that_do_not_fit_the_program_are_an_error
    parameters_and_results_have_the_layouts_that_the_module_gives_them
    results_in_a_tuple_have_layouts_of_their_own
    a_program_runs_on_many_threads_at_once
    results_feed_the_next_execution
}

fn replicas_exchange_data_on_four_devices(plugin: &Plugin) {
    let client = client(plugin, 4);
    let sum = module(&[&[2]], |b, p| {
        let add = Computation::binary(BinaryOp::Add, ElementType::F32)?;
        b.all_reduce(p[0], &add, &[vec![0, 1, 2, 3]])
    });
    let program = client
        .compile(&sum.serialize(), &CompileOptions::with_replicas(4))
        .unwrap();
    assert_eq!(program.addressable_devices().len(), 4);
    let buffers: Vec<_> = program
        .addressable_devices()
        .iter()
        .zip([1.0, 10.0, 100.0, 1000.0])
        .map(|(device, x)| send(device, &[x, -x], &[2]))
        .collect();
    let args: Vec<_> = buffers.iter().map(|buffer| vec![buffer]).collect();
    let outputs = program.execute(&args, &ExecuteOptions::default()).unwrap();
    assert_eq!(outputs.len(), 4);
    for outputs in outputs {
        assert_eq!(outputs.len(), 1);
        assert_eq!(outputs[0].to_vec_f32().unwrap(), [1111.0, -1111.0]);
    }
}

fn a_device_assignment_says_which_device_runs_which_replica(plugin: &Plugin) {
    let client = client(plugin, 4);
    let number = module(&[], |b, _| {
        let id = b.replica_id()?;
        b.convert(id, ElementType::F32)
    });
    let assignment = vec![3, 1];
    let options = CompileOptions {
        device_assignment: Some(assignment.clone()),
        ..CompileOptions::with_replicas(2)
    };
    let program = client.compile(&number.serialize(), &options).unwrap();
    let outputs = program
        .execute(&[vec![], vec![]], &ExecuteOptions::default())
        .unwrap();
    for (device, outputs) in program.addressable_devices().iter().zip(outputs) {
        let replica = outputs[0].to_vec_f32().unwrap()[0] as usize;
        assert_eq!(assignment[replica], i64::from(device.id()));
    }
}

fn a_tuple_comes_back_as_its_leaves(plugin: &Plugin) {
    let client = client(plugin, 1);
    let program = compile(
        &client,
        &module(&[&[2, 2]], |b, p| {
            let row = b.reduce_sum(p[0], &[0])?;
            let all = b.reduce_sum(p[0], &[0, 1])?;
            let whole = b.convert(p[0], ElementType::S32)?;
            b.tuple(&[row, all, whole])
        }),
    );
    assert_eq!(program.num_outputs().unwrap(), 3);
    let shapes: Vec<_> = program
        .output_shapes()
        .unwrap()
        .into_iter()
        .map(|shape| (shape.element_type, shape.dims))
        .collect();
    let expected = [
        (ElementType::F32, vec![2]),
        (ElementType::F32, vec![]),
        (ElementType::S32, vec![2, 2]),
    ];
    assert_eq!(shapes, expected);
    let x = send(first(&client), &[1.0, 2.0, 3.0, 4.0], &[2, 2]);
    let outputs = program
        .execute(&[vec![&x]], &ExecuteOptions::default())
        .unwrap();
    assert_eq!(outputs[0].len(), 3);
    assert_eq!(outputs[0][0].to_vec_f32().unwrap(), [4.0, 6.0]);
    assert_eq!(outputs[0][1].to_vec_f32().unwrap(), [10.0]);
    assert_eq!(outputs[0][2].to_vec_i32().unwrap(), [1, 2, 3, 4]);
}

/// `x + y`, in place of `x`.
fn adding_in_place() -> hlo::Module {
    let mut module = module(&[&[4], &[4]], |b, p| b.add(p[0], p[1]));
    module
        .alias(&[], 0, &[], AliasKind::May)
        .expect("shapes are equal");
    module
}

fn a_donated_buffer_is_consumed(plugin: &Plugin) {
    let client = client(plugin, 1);
    let program = compile(&client, &adding_in_place());
    assert_eq!(program.memory_stats().unwrap().aliased, 16);
    let x = send(first(&client), &[1.0; 4], &[4]);
    let y = send(first(&client), &[2.0; 4], &[4]);
    let options = ExecuteOptions::default();
    let outputs = program.execute(&[vec![&x, &y]], &options).unwrap();
    assert!(x.is_deleted().unwrap());
    assert!(!y.is_deleted().unwrap());
    assert_eq!(x.to_host_vec().unwrap_err(), Error::BufferDeleted);
    assert_eq!(
        program.execute(&[vec![&x, &y]], &options).unwrap_err(),
        Error::ArgumentDeleted {
            program: "test_module".to_owned(),
            device: 0,
            index: 0
        }
    );
    assert_eq!(outputs[0][0].to_vec_f32().unwrap(), [3.0; 4]);
    assert_eq!(y.to_vec_f32().unwrap(), [2.0; 4]);
}

fn a_buffer_that_may_not_be_donated_is_kept(plugin: &Plugin) {
    let client = client(plugin, 1);
    let program = compile(&client, &adding_in_place());
    let x = send(first(&client), &[1.0; 4], &[4]);
    let options = ExecuteOptions {
        non_donatable: vec![0],
        ..ExecuteOptions::default()
    };
    // With the same buffer twice, which could not be donated at all.
    let outputs = program.execute(&[vec![&x, &x]], &options).unwrap();
    assert_eq!(outputs[0][0].to_vec_f32().unwrap(), [2.0; 4]);
    assert!(!x.is_deleted().unwrap());
    assert_eq!(x.to_vec_f32().unwrap(), [1.0; 4]);
}

fn argument_lists_must_match_the_devices(plugin: &Plugin) {
    let client = client(plugin, 2);
    let program = client
        .compile(
            &doubling(&[1]).serialize(),
            &CompileOptions::with_replicas(2),
        )
        .unwrap();
    let x = send(&client.devices()[0], &[1.0], &[1]);
    let y = send(&client.devices()[1], &[2.0], &[1]);
    let options = ExecuteOptions::default();
    let lists = |args: &[Vec<_>]| program.execute(args, &options).unwrap_err();
    assert!(matches!(
        lists(&[vec![&x]]),
        Error::ArgumentLists {
            given: 1,
            devices: 2,
            ..
        }
    ));
    assert!(matches!(
        lists(&[vec![&x], vec![&y, &y]]),
        Error::ArgumentCount {
            device: 1,
            given: 2,
            expected: 1,
            ..
        }
    ));
    // On the wrong devices.
    assert!(lists(&[vec![&y], vec![&x]]).code().is_some());
}

fn arguments_that_do_not_fit_the_program_are_an_error(plugin: &Plugin) {
    let client = client(plugin, 1);
    let program = compile(&client, &doubling(&[4]));
    let options = ExecuteOptions::default();
    let short = send(first(&client), &[1.0; 3], &[3]);
    let right = send(first(&client), &[1.0; 4], &[4]);
    for args in [vec![], vec![&short], vec![&right, &right]] {
        // Whether refused at once or on another thread: an error in the end.
        let failed = match program.execute(std::slice::from_ref(&args), &options) {
            Err(_) => true,
            Ok(outputs) => outputs[0][0].to_host_vec().is_err(),
        };
        assert!(failed, "{args:?}");
    }
}

fn parameters_and_results_have_the_layouts_that_the_module_gives_them(plugin: &Plugin) {
    let client = client(plugin, 1);
    let (rows, columns) = ([1, 0], [0, 1]);
    let bytes = f32_bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    for (from, to) in [
        (rows, rows),
        (rows, columns),
        (columns, rows),
        (columns, columns),
    ] {
        let mut program = module(&[&[2, 3]], |b, p| {
            let row_number = b.iota(ElementType::F32, &[2, 3], 0)?;
            b.add(p[0], row_number)
        });
        program.set_parameter_layout(0, &[], &from).unwrap();
        program.set_result_layout(&[], &to).unwrap();
        let program = client
            .compile_module(&program, &CompileOptions::default())
            .unwrap();
        let options = TransferOptions {
            device_minor_to_major: Some(from.to_vec()),
            ..TransferOptions::default()
        };
        for data in [
            HostData::from(bytes.as_slice()),
            HostBuffer::from(bytes.as_slice()).into(),
        ] {
            let x =
                Buffer::from_host_with(first(&client), data, &[2, 3], ElementType::F32, &options)
                    .unwrap();
            let outputs = program
                .execute(&[vec![&x]], &ExecuteOptions::default())
                .unwrap();
            assert_eq!(
                outputs[0][0].to_vec_f32().unwrap(),
                [1.0, 2.0, 3.0, 5.0, 6.0, 7.0],
                "from {from:?} to {to:?}"
            );
        }
    }
}

fn results_in_a_tuple_have_layouts_of_their_own(plugin: &Plugin) {
    let client = client(plugin, 1);
    let mut program = module(&[&[2, 3]], |b, p| {
        let doubled = b.add(p[0], p[0])?;
        b.tuple(&[p[0], doubled])
    });
    program.set_result_layout(&[1], &[0, 1]).unwrap();
    let program = client
        .compile_module(&program, &CompileOptions::default())
        .unwrap();
    let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let x = send(first(&client), &values, &[2, 3]);
    let outputs = program
        .execute(&[vec![&x]], &ExecuteOptions::default())
        .unwrap();
    assert_eq!(outputs[0][0].to_vec_f32().unwrap(), values);
    let doubled = values.map(|x| x * 2.0);
    assert_eq!(outputs[0][1].to_vec_f32().unwrap(), doubled);
}

fn a_program_runs_on_many_threads_at_once(plugin: &Plugin) {
    let client = client(plugin, 1);
    let program = compile(&client, &doubling(&[100]));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (client, program) = (&client, &program);
            scope.spawn(move || {
                for round in 0..20 {
                    let value = (thread * 100 + round) as f32;
                    let x = send(first(client), &[value; 100], &[100]);
                    let outputs = program
                        .execute(&[vec![&x]], &ExecuteOptions::default())
                        .unwrap();
                    assert_eq!(outputs[0][0].to_vec_f32().unwrap(), [value * 2.0; 100]);
                }
            });
        }
    });
}

fn results_feed_the_next_execution(plugin: &Plugin) {
    let client = client(plugin, 1);
    let program = compile(&client, &adding_in_place());
    let one = send(first(&client), &[1.0; 4], &[4]);
    let mut x = send(first(&client), &[0.0; 4], &[4]);
    for _ in 0..50 {
        // Nothing waits in between, and each result takes its argument's place.
        let mut outputs = program
            .execute(&[vec![&x, &one]], &ExecuteOptions::default())
            .unwrap();
        x = outputs.remove(0).remove(0);
    }
    assert_eq!(x.to_vec_f32().unwrap(), [50.0; 4]);
}
