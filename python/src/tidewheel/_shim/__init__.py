"""The part of the package inside a worker process: it runs tasks and speaks only to the agent, over an inherited socket.

    agent                                     shim
      |  <- hello {fns} ----------------------- |   modules imported, ready
      |  -- hello_ack {limits} ---------------> |
      |  -- task_start, task_start, ... ------> |   pipelined; done in order
      |  <- started, log, progress, task_done - |   buffered, one write for many
      |  -- recall {leases} -----------------> |   those that have not begun ...
      |  <- recalled {leases} --------------- |   ... go back, and nothing more is said of them
      |  -- cancel {lease} -------------------> |   also while a task runs
      |  <- enqueue/asset/handle/history {req}- |
      |  -- enqueued / asset_value / ... {req}> |
      |  -- drain ----------------------------> |   finish what came, then exit 0

Frame: u32 length (big-endian, of what follows), u8 codec, payload. Codec 0 is a JSON object; codec 1 is a u32 length, a
JSON object of that length, and raw bytes. At most 16 MiB.

Never here: a network connection, `tidewheel.client`, or a pickle.
"""
