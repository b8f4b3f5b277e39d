Feature: Retries, limits and handlers

  Scenario: A call is tried again until it is answered
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: retry, version: '1.0.0' }
    do:
      - guard:
          try:
            - ask: { call: http, with: { method: get, endpoint: 'https://flaky.example' } }
          catch:
            errors: { with: { type: 'https://serverlessworkflow.io/spec/1.0.0/errors/communication', status: 503 } }
            retry: { delay: { seconds: 1 }, backoff: { exponential: {} }, limit: { attempt: { count: 3 } } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    asked: 3
    """

  Scenario: Retries that are used up raise the error again
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: retry, version: '1.0.0' }
    do:
      - guard:
          try:
            - ask: { call: http, with: { method: get, endpoint: 'https://flaky.example' } }
          catch:
            retry: { delay: { seconds: 1 }, limit: { attempt: { count: 1 } } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    status: 503
    instance: /do/0/guard/try/0/ask
    """

  Scenario: A handler runs once when retries are used up
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: retry, version: '1.0.0' }
    do:
      - guard:
          try:
            - ask: { call: http, with: { method: get, endpoint: 'https://flaky.example' } }
          catch:
            retry: { delay: { seconds: 1 }, limit: { attempt: { count: 1 } } }
            do:
              - tell: { set: { status: '${ $error.status }' } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    status: 503
    """
    And tell should run last

  Scenario: What is not caught goes outwards
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: nested, version: '1.0.0' }
    do:
      - outer:
          try:
            - inner:
                try:
                  - boom: { raise: { error: { type: 'https://example.com/boom', status: 418 } } }
                catch: { errors: { with: { status: 500 } }, do: [ { wrong: { set: { by: inner } } } ] }
          catch: { do: [ { right: { set: { by: outer } } } ] }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    by: outer
    """

  Scenario: A statement that takes too long raises a timeout that can be caught
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: timeout, version: '1.0.0' }
    do:
      - guard:
          try:
            - ask: { call: http, with: { method: get, endpoint: 'https://never.example' }, timeout: { after: { seconds: 5 } } }
          catch:
            errors: { with: { type: 'https://open-workflow-specification.org/spec/1.0.0/errors/timeout' } }
            do:
              - tell: { set: { status: '${ $error.status }', where: '${ $error.instance }' } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    status: 408
    where: /do/0/guard/try/0/ask
    """

  Scenario: A run that takes too long faults
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: timeout, version: '1.0.0' }
    timeout: { after: { minutes: 1 } }
    do:
      - rest: { wait: { hours: 1 } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://open-workflow-specification.org/spec/1.0.0/errors/timeout
    status: 408
    """

  Scenario: An event that the run sends is heard by its own listener
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: listen, version: '1.0.0' }
    do:
      - both:
          fork:
            branches:
              - tell: { emit: { event: { with: { source: 'https://example.com', type: com.example.paid, data: { order: 7 } } } } }
              - hear: { listen: { to: { one: { with: { type: com.example.paid } } } } }
      - show: { set: '${ .[1] }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    [ { order: 7 } ]
    """

  Scenario: An expression that fails is an expression error
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: expression, version: '1.0.0' }
    do:
      - boom: { set: { a: '${ .a.b.c }' } }
    """
    And given the workflow input is:
    """yaml
    a: 1
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://open-workflow-specification.org/spec/1.0.0/errors/expression
    status: 400
    instance: /do/0/boom
    """
