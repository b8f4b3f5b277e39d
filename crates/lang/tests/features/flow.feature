Feature: What the kit leaves out

  Scenario: Fork without compete gives an array in order of declaration
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: fork, version: '1.0.0' }
    do:
      - both:
          fork:
            branches:
              - slow: { do: [ { rest: { wait: { seconds: 2 } } }, { one: { set: { n: 1 } } } ] }
              - quick: { set: { n: 2 } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    [ { n: 1 }, { n: 2 } ]
    """

  Scenario: Exports of branches are merged
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: fork, version: '1.0.0' }
    do:
      - both:
          fork:
            branches:
              - left: { set: { n: 1 }, export: { as: '${ $context + { left: .n } }' } }
              - right: { set: { n: 2 }, export: { as: '${ $context + { right: .n } }' } }
      - show: { set: '${ $context }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    left: 1
    right: 2
    """

  Scenario: A competition that everybody loses raises the first error
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: fork, version: '1.0.0' }
    do:
      - race:
          fork:
            compete: true
            branches:
              - one: { raise: { error: { type: 'https://example.com/one', status: 501 } } }
              - two: { raise: { error: { type: 'https://example.com/two', status: 502 } } }
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://example.com/one
    status: 501
    instance: /do/0/race/fork/branches/0/one
    """

  Scenario: A context replaces the one before
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: context, version: '1.0.0' }
    do:
      - one: { set: { a: 1 }, export: { as: '${ { a: .a } }' } }
      - two: { set: { b: 2 }, export: { as: '${ { b: .b } }' } }
      - show: { set: '${ $context }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    b: 2
    """

  Scenario: A skipped statement passes its raw input on
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: skip, version: '1.0.0' }
    do:
      - never: { if: '${ .go }', set: { a: 1 }, then: end }
      - show: { set: { seen: '${ . }' } }
    """
    And given the workflow input is:
    """yaml
    go: false
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    seen: { go: false }
    """
    And show should run last

  Scenario: An input that does not fit its schema faults the run
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: schema, version: '1.0.0' }
    input: { schema: { format: json, document: { type: object, required: [ order ] } } }
    do:
      - show: { set: '${ . }' }
    """
    And given the workflow input is:
    """yaml
    other: 1
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    type: https://open-workflow-specification.org/spec/1.0.0/errors/validation
    status: 400
    """

  Scenario: A loop with while ends when the condition no longer holds
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: loop, version: '1.0.0' }
    do:
      - loop:
          for: { each: n, in: '${ [1, 2, 3, 4] }' }
          while: '${ (.sum // 0) < 3 }'
          do:
            - add: { set: { sum: '${ (.sum // 0) + $n }' } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    sum: 3
    """

  Scenario: A wait takes its time and gives its input
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: wait, version: '1.0.0' }
    do:
      - rest: { wait: { days: 40 } }
    """
    And given the workflow input is:
    """yaml
    a: 1
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    a: 1
    """
