Feature: Sagas of the default catalog

  Scenario: Steps come one after another and the output is theirs
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: saga, version: '1.0.0' }
    do:
      - book:
          call: saga:1.0.0@default
          with:
            steps:
              - { name: flight, do: 'task:1.0.0@default', with: { type: echo, input: { seat: '${ .seat }' } } }
              - { name: hotel, do: 'task:1.0.0@default', with: { type: echo, input: '${ $steps.flight }' } }
    """
    And given the workflow input is:
    """yaml
    seat: 7
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    - { seat: 7 }
    - { seat: 7 }
    """
    And hotel should run after flight
    And hotel should run last

  Scenario: What finished before a step that fails is undone in reverse, then the error goes on
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: saga, version: '1.0.0' }
    do:
      - book:
          call: saga:1.0.0@default
          with:
            steps:
              - name: flight
                do: task:1.0.0@default
                with: { type: echo, input: { id: f } }
                undo: task:1.0.0@default
                undoWith: { type: echo, input: { cancel: '${ .id }' } }
              - name: hotel
                do: task:1.0.0@default
                with: { type: echo, input: { id: h } }
                undo: task:1.0.0@default
                undoWith: { type: echo }
              - { name: pay, do: 'task:1.0.0@default', with: { type: fail, input: {} } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://open-workflow-specification.org/spec/1.0.0/errors/communication
    status: 503
    instance: /do/0/book/pay
    """
    And hotel/undo should run after pay
    And flight/undo should run after hotel/undo
    And flight/undo should run last

  Scenario: The handler of an error begins when everything is undone
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: saga, version: '1.0.0' }
    do:
      - guard:
          try:
            - book:
                call: saga:1.0.0@default
                with:
                  steps:
                    - name: flight
                      do: task:1.0.0@default
                      with: { type: echo, input: 1 }
                      undo: task:1.0.0@default
                      undoWith: { type: echo }
                    - { name: pay, do: 'task:1.0.0@default', with: { type: fail, input: {} } }
          catch: { do: [ { tell: { set: { status: '${ $error.status }' } } } ] }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    status: 503
    """
    And tell should run after flight/undo

  Scenario: An undo is tried again until it succeeds
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: saga, version: '1.0.0' }
    do:
      - book:
          call: saga:1.0.0@default
          with:
            steps:
              - name: flight
                do: task:1.0.0@default
                with: { type: echo, input: 1 }
                undo: task:1.0.0@default
                undoWith: { type: flaky }
              - { name: pay, do: 'task:1.0.0@default', with: { type: fail, input: {} } }
            retry: { delay: { seconds: 1 }, backoff: { exponential: {} }, limit: { attempt: { count: 2 } } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    status: 503
    instance: /do/0/book/pay
    """

  Scenario: An undo that fails for good faults the run and says what remains
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: saga, version: '1.0.0' }
    do:
      - guard:
          try:
            - book:
                call: saga:1.0.0@default
                with:
                  steps:
                    - name: flight
                      do: task:1.0.0@default
                      with: { type: echo, input: 1 }
                      undo: task:1.0.0@default
                      undoWith: { type: echo }
                    - name: hotel
                      do: task:1.0.0@default
                      with: { type: echo, input: 2 }
                      undo: task:1.0.0@default
                      undoWith: { type: fail }
                    - { name: pay, do: 'task:1.0.0@default', with: { type: fail, input: {} } }
                  retry: { delay: { seconds: 1 }, limit: { attempt: { count: 1 } } }
          catch: { do: [ { tell: { set: { status: '${ $error.status }' } } } ] }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://open-workflow-specification.org/spec/1.0.0/errors/runtime
    status: 500
    instance: /do/0/guard/try/0/book/hotel/undo
    """
    And hotel/undo should run last
