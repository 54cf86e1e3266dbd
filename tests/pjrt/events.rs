//! Events: waiting, asking, and being called back.

use std::sync::mpsc;
use std::time::Duration;

use gemma_xla::pjrt::Plugin;

use crate::support::{client, compile, doubling, first, on_both_plugins, send};

on_both_plugins! {
    a_launch_tells_when_each_device_is_done
    a_callback_is_called_once_with_what_came_of_the_work
    a_callback_outlives_its_event
    a_panic_in_a_callback_ends_there
}

const PATIENCE: Duration = Duration::from_secs(10);

fn a_launch_tells_when_each_device_is_done(plugin: &Plugin) {
    let client = client(plugin, 2);
    let options = gemma_xla::pjrt::CompileOptions::with_replicas(2);
    let program = client
        .compile(&doubling(&[2]).serialize(), &options)
        .unwrap();
    let buffers: Vec<_> = program
        .addressable_devices()
        .iter()
        .map(|device| send(device, &[1.0, 2.0], &[2]))
        .collect();
    let args: Vec<_> = buffers.iter().map(|buffer| vec![buffer]).collect();
    let execution = program.launch(&args, &Default::default()).unwrap();
    assert_eq!(execution.done.len(), 2);
    for done in &execution.done {
        done.wait().unwrap();
        assert!(done.is_ready().unwrap());
    }
    for outputs in &execution.outputs {
        assert!(outputs[0].ready().unwrap().is_ready().unwrap());
    }
}

fn a_callback_is_called_once_with_what_came_of_the_work(plugin: &Plugin) {
    let client = client(plugin, 1);
    let program = compile(&client, &doubling(&[2]));
    let buffer = send(first(&client), &[1.0, 2.0], &[2]);
    let outputs = program
        .execute(&[vec![&buffer]], &Default::default())
        .unwrap();
    let (sender, receiver) = mpsc::channel();
    let ready = outputs[0][0].ready().unwrap();
    ready
        .on_ready(move |result| sender.send(result).unwrap())
        .unwrap();
    assert_eq!(receiver.recv_timeout(PATIENCE), Ok(Ok(())));
    // The sender is dropped with the callback.
    assert_eq!(
        receiver.recv_timeout(PATIENCE),
        Err(mpsc::RecvTimeoutError::Disconnected)
    );
}

fn a_callback_outlives_its_event(plugin: &Plugin) {
    let client = client(plugin, 1);
    let (sender, receiver) = mpsc::channel();
    for _ in 0..100 {
        let buffer = send(first(&client), &[1.0; 1000], &[1000]);
        let sender = sender.clone();
        let ready = buffer.ready().unwrap();
        ready
            .on_ready(move |result| sender.send(result).unwrap())
            .unwrap();
        drop(ready);
    }
    for _ in 0..100 {
        assert_eq!(receiver.recv_timeout(PATIENCE), Ok(Ok(())));
    }
}

fn a_panic_in_a_callback_ends_there(plugin: &Plugin) {
    let client = client(plugin, 1);
    let buffer = send(first(&client), &[1.0], &[1]);
    let (sender, receiver) = mpsc::channel::<()>();
    let ready = buffer.ready().unwrap();
    ready
        .on_ready(move |_| {
            let _dropped_by_the_panic = sender;
            panic!("of the test");
        })
        .unwrap();
    assert_eq!(
        receiver.recv_timeout(PATIENCE),
        Err(mpsc::RecvTimeoutError::Disconnected)
    );
    assert_eq!(buffer.to_vec_f32().unwrap(), [1.0]);
}
