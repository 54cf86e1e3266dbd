//! Clients and their devices.

use gemma_xla::pjrt::{CompileOptions, Error, Plugin};

use crate::support::{client, compile, doubling, first, on_both_plugins, send};

on_both_plugins! {
    a_client_has_as_many_devices_as_asked_for
    devices_describe_themselves
    the_cpu_plugins_count_no_memory
    default_device_assignments_name_each_device_once
    an_assignment_of_more_devices_than_there_are_is_an_error
    what_a_client_made_keeps_it_alive
    objects_of_another_client_are_refused
}

fn a_client_has_as_many_devices_as_asked_for(plugin: &Plugin) {
    for count in [1, 4] {
        let client = client(plugin, count);
        assert_eq!(client.platform_name(), "cpu");
        assert_eq!(client.process_index(), 0);
        assert_eq!(client.devices().len(), count as usize);
        assert_eq!(client.devices(), client.addressable_devices());
        assert_eq!(client.plugin().path(), plugin.path());
    }
}

fn devices_describe_themselves(plugin: &Plugin) {
    let client = client(plugin, 3);
    let ids: Vec<i32> = client.devices().iter().map(|device| device.id()).collect();
    assert_eq!(ids, [0, 1, 2]);
    for device in client.devices() {
        assert!(device.is_addressable());
        assert_eq!(device.process_index(), 0);
        assert_eq!(device.kind(), "cpu");
        assert!(!device.debug_string().is_empty());
    }
    assert_ne!(client.devices()[0], client.devices()[1]);
}

fn the_cpu_plugins_count_no_memory(plugin: &Plugin) {
    let client = client(plugin, 1);
    assert_eq!(first(&client).memory_stats().unwrap(), None);
}

fn default_device_assignments_name_each_device_once(plugin: &Plugin) {
    let client = client(plugin, 4);
    for (replicas, partitions) in [(4, 1), (2, 2), (1, 4)] {
        let mut ids = client
            .default_device_assignment(replicas, partitions)
            .unwrap();
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2, 3]);
    }
}

fn an_assignment_of_more_devices_than_there_are_is_an_error(plugin: &Plugin) {
    let client = client(plugin, 2);
    assert!(matches!(
        client.default_device_assignment(usize::MAX, 2),
        Err(Error::OutOfRange { .. })
    ));
    let options = CompileOptions::with_replicas(3);
    assert!(
        client
            .compile(&doubling(&[2]).serialize(), &options)
            .is_err()
    );
}

fn what_a_client_made_keeps_it_alive(plugin: &Plugin) {
    let (device, buffer, program, ready) = {
        let client = client(plugin, 1);
        let buffer = send(first(&client), &[1.0, 2.0], &[2]);
        let program = compile(&client, &doubling(&[2]));
        let ready = buffer.ready().unwrap();
        (first(&client).clone(), buffer, program, ready)
    };
    ready.wait().unwrap();
    let outputs = program
        .execute(&[vec![&buffer]], &Default::default())
        .unwrap();
    drop((program, buffer, ready));
    assert_eq!(outputs[0][0].to_vec_f32().unwrap(), [2.0, 4.0]);
    drop(outputs);
    assert_eq!(device.memory_stats().unwrap(), None);
}

fn objects_of_another_client_are_refused(plugin: &Plugin) {
    let (one, other) = (client(plugin, 1), client(plugin, 1));
    let foreign = |result: Result<_, Error>| matches!(result, Err(Error::ForeignObject { .. }));
    let buffer = send(first(&one), &[1.0], &[1]);
    assert!(foreign(buffer.copy_to_device(first(&other)).map(drop)));
    let program = compile(&other, &doubling(&[1]));
    let executed = program.execute(&[vec![&buffer]], &Default::default());
    assert!(foreign(executed.map(drop)));
}
