Feature: Loops in loops, and loops over what they change

  Scenario: A loop in a loop goes through all items of each item, in order
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: loops, version: '1.0.0' }
    do:
      - given: { set: { rows: [ [ a, b ], [ ], [ c ] ] } }
      - rows:
          for: { each: row, at: y, in: '${ .rows }' }
          do:
            - cells:
                for: { each: cell, at: x, in: '${ $row }' }
                do:
                  - ask:
                      call: task:1.0.0@default
                      with: { type: echo, input: { cell: '${ $cell }' } }
                      export: { as: '${ $context + { seen: (($context.seen // []) + [[$y, $x, .cell]]) } }' }
                  - rest: { wait: { milliseconds: 5 } }
      - show: { set: '${ $context.seen }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    [ [ 0, 0, a ], [ 0, 1, b ], [ 2, 0, c ] ]
    """

  Scenario: The inner loop has its own variables, and the outer ones are there again behind it
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: loops, version: '1.0.0' }
    do:
      - given: { set: { told: [ ] } }
      - outer:
          for: { in: '${ [1, 2] }' }
          do:
            - inner:
                for: { in: '${ [10, 20] }' }
                do:
                  - rest: { wait: { milliseconds: 5 } }
                  - tell: { set: '${ { told: (.told + [[$item, $index]]) } }' }
            - behind: { set: '${ { told: (.told + [[$item, $index]]) } }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    told: [ [ 10, 0 ], [ 20, 1 ], [ 1, 0 ], [ 10, 0 ], [ 20, 1 ], [ 2, 1 ] ]
    """

  Scenario: A condition of the inner loop ends the inner loop alone
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: loops, version: '1.0.0' }
    do:
      - given: { set: { told: [ ] } }
      - outer:
          for: { each: a, in: '${ [1, 2, 3] }' }
          do:
            - inner:
                for: { each: b, in: '${ [1, 2, 3] }' }
                while: '${ $b <= $a }'
                do:
                  - ask: { call: 'task:1.0.0@default', with: { type: echo, input: '${ { told: (.told + [$a * 10 + $b]) } }' } }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    told: [ 11, 21, 22, 31, 32, 33 ]
    """

  Scenario: A loop goes through the items that there were when it began, whatever its body adds
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: loops, version: '1.0.0' }
    do:
      - given: { set: { list: [ 1, 2, 3 ] } }
      - grow:
          for: { in: '${ .list }' }
          do:
            - rest: { wait: { milliseconds: 5 } }
            - add: { set: '${ { list: (.list + [$item * 10]) } }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    list: [ 1, 2, 3, 10, 20, 30 ]
    """

  Scenario: A loop goes through the items that there were when it began, whatever its body takes away
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: loops, version: '1.0.0' }
    do:
      - given: { set: { list: [ 1, 2, 3 ], sum: 0 } }
      - empty:
          for: { in: '${ .list }' }
          do:
            - rest: { wait: { milliseconds: 5 } }
            - take: { set: '${ { list: [], sum: (.sum + $item) } }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    list: [ ]
    sum: 6
    """

  Scenario: An inner loop goes through the list as the rounds before it left it
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: loops, version: '1.0.0' }
    do:
      - given: { set: { list: [ 1 ], sum: 0 } }
      - outer:
          for: { each: a, in: '${ [1, 2, 3] }' }
          do:
            - inner:
                for: { each: b, in: '${ .list }' }
                do:
                  - add: { call: 'task:1.0.0@default', with: { type: echo, input: '${ { list: .list, sum: (.sum + $b) } }' } }
            - grow: { set: '${ { list: (.list + [$a]), sum: .sum } }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    list: [ 1, 1, 2, 3 ]
    sum: 7
    """

  Scenario: An error in the inner loop that the outer one catches costs its round alone
    Given a workflow with definition:
    """yaml
    document: { dsl: '1.0.3', namespace: test, name: loops, version: '1.0.0' }
    do:
      - given: { set: { told: [ ] } }
      - outer:
          for: { each: a, in: '${ [1, 2] }' }
          do:
            - guard:
                input: { from: '${ . }' }
                try:
                  - inner:
                      for: { each: b, in: '${ [1, 2] }' }
                      do:
                        - rest: { wait: { milliseconds: 5 } }
                        - check:
                            switch:
                              - bad: { when: '${ $a == 1 and $b == 2 }', then: fail }
                              - good: { then: tell }
                        - fail: { raise: { error: { type: 'https://example.com/bad', status: 500 } } }
                        - tell: { set: '${ { told: (.told + [[$a, $b]]) } }' }
                catch:
                  do:
                    - note: { set: '${ { told: (.told + ["caught"]) } }' }
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    told: [ caught, [ 2, 1 ], [ 2, 2 ] ]
    """
